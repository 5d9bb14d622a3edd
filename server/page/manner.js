// The panel "Manner": how the person behaves, as the server's controls name it.

const DIALS = { expressiveness: "expressiveness", head_motion: "head-motion" };

/** The fields inside `root`, a fieldset. Event "change" {controls}: what was just changed. */
export class Manner extends EventTarget {
  #root;

  constructor(root) {
    super();
    this.#root = root;
    for (const [name, id] of Object.entries(DIALS)) {
      const dial = root.querySelector(`#${id}`);
      dial.addEventListener("input", () => { this.#draw(id); this.#tell({ [name]: dial.valueAsNumber }); });
      this.#draw(id); // a browser may bring back what a reloaded page had
    }
    for (const mood of root.querySelectorAll("[name=mood]")) mood.addEventListener("change", () => this.#tell({ mood: mood.value }));
    const listening = root.querySelector("#listening");
    listening.addEventListener("change", () => this.#tell({ listening: listening.checked }));
  }

  /** All that the panel sets. */
  get controls() {
    const dials = Object.entries(DIALS).map(([name, id]) => [name, this.#root.querySelector(`#${id}`).valueAsNumber]);
    return {
      ...Object.fromEntries(dials),
      mood: this.#root.querySelector("[name=mood]:checked").value,
      listening: this.#root.querySelector("#listening").checked,
    };
  }

  #draw(id) {
    const dial = this.#root.querySelector(`#${id}`);
    const shown = `${Math.round(100 * dial.valueAsNumber)} %`;
    this.#root.querySelector(`#${id}-shown`).value = shown;
    dial.setAttribute("aria-valuetext", shown);
  }

  #tell(controls) { this.dispatchEvent(new CustomEvent("change", { detail: { controls } })); }
}
