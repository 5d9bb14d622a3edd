// Adding a person: a photo or a film, chosen, dropped or recorded; with consent, to the server.

import { Problem, sendForm } from "/call.js";
import { FilmRecorder, cameraObstacle } from "/record.js";

const $ = (id) => document.getElementById(id);
const CONSENT = "Stated on the web page by who added the photo or film: it shows themselves, or the person agreed to be shown speaking.";
const MIB = 1 << 20;

export const isFilm = (file) => file.type.startsWith("video/") || /\.(mp4|mov|m4v|mkv|webm|avi|mpe?g|ts|3gp)$/i.test(file.name);
export const isPicture = (file) => file.type.startsWith("image/") || /\.(hei[cf]|avif)$/i.test(file.name); // of which some systems know no type

/** The field #photo, the button #record and the dialog #consent. Events "sending" {kind, share}: how much of it has
 *  gone out, 0 to 1; "person" {person}: the server prepares one; "problem" {message}. */
export class Adding extends EventTarget {
  #dialog = $("consent");
  #file = null;
  #limits = { max_photo_bytes: 24 * MIB, max_film_bytes: 64 * MIB };

  constructor() {
    super();
    const recorder = new FilmRecorder();
    recorder.addEventListener("film", ({ detail }) => this.offer(detail.file));
    const obstacle = cameraObstacle();
    $("record").disabled = Boolean(obstacle);
    if (obstacle) $("record-note").textContent = obstacle;
    $("record").onclick = () => recorder.open();
    $("photo").onchange = ({ target }) => { this.offer(target.files[0]); target.value = ""; };
    $("consent-check").onchange = ({ target }) => { $("consent-ok").disabled = !target.checked; };
    this.#dialog.onclose = () => {
      const wanted = this.#dialog.returnValue === "enroll" && $("consent-check").checked;
      this.#dialog.returnValue = "";
      $("consent-film").pause();
      if (wanted) this.#send();
    };
  }

  /** What /v1/config says. */
  set limits(limits) { this.#limits = limits; }

  /** Ask for the name and consent of the person in a file. `face`: ask which of several faces, too. */
  offer(file, face = null) {
    if (!file) return;
    const film = isFilm(file);
    const limit = film ? this.#limits.max_film_bytes : this.#limits.max_photo_bytes;
    const kind = film ? "film" : "photo";
    if (file.size > limit) {
      this.#tell(`This ${kind} has ${(file.size / MIB).toFixed(0)} MB; the server takes ${Math.floor(limit / MIB)} MB at most.`);
      return;
    }
    this.#file = file;
    $("consent-title").textContent = `Add this ${kind}`;
    $("consent-ok").textContent = `Prepare the ${kind}`;
    $("consent-name").placeholder = `Your ${kind}`;
    this.#preview(film);
    $("consent-check").checked = $("consent-learn").checked = false;
    $("consent-ok").disabled = true;
    $("learn-row").hidden = !(film && this.#limits.learning);
    $("face-row").hidden = face === null;
    if (face === null) $("consent-name").value = "";
    else $("consent-face").value = face;
    this.#dialog.showModal();
  }

  /** Ask again, which face, after a photo of several was refused. */
  offerFaces() {
    if (this.#file && !isFilm(this.#file)) this.offer(this.#file, 1);
  }

  #preview(film) {
    const photo = $("consent-photo"), video = $("consent-film");
    const shown = film ? video : photo;
    for (const element of [photo, video]) {
      URL.revokeObjectURL(element.src);
      element.removeAttribute("src");
      element.hidden = element !== shown;
    }
    shown.onerror = () => { shown.hidden = true; }; // a kind that this browser does not show
    shown.src = URL.createObjectURL(this.#file);
  }

  async #send() {
    const film = isFilm(this.#file), kind = film ? "film" : "photo";
    const form = new FormData();
    form.append("consent", CONSENT);
    form.append("name", $("consent-name").value.trim() || $("consent-name").placeholder);
    if (!$("face-row").hidden) form.append("face", $("consent-face").value);
    if (!$("learn-row").hidden && $("consent-learn").checked) form.append("learn", "true");
    form.append(kind, this.#file);
    this.#tell("");
    const sent = (share) => this.#emit("sending", { kind, share });
    sent(0);
    try {
      this.#emit("person", { person: await sendForm("/v1/avatars", form, sent) });
    } catch (error) {
      if (!(error instanceof Problem)) console.error(error);
      this.#tell(error instanceof Problem ? error.message : "The file could not be sent. Choose it again.");
    }
  }

  #emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
  #tell(message) { this.#emit("problem", { message }); }
}
