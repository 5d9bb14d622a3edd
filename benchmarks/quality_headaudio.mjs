// Runs HeadAudio (npm @met4citizen/headaudio, MIT) outside of a browser: its own node and processor, joined by their messages.
//   node quality_headaudio.mjs FOLDER_OF_THE_PACKAGE < JOBS > RESULTS
// JOBS: one JSON line a recording, {"file": path of float32 samples at 16 kHz}; RESULTS: one JSON line each, {"names": [...], "values": [[...] a frame of 40 ms]}.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const FRAME = 640, BLOCK = 128; // samples: a frame of video, a quantum of the Web Audio API

class Port {
  constructor() { this.onmessage = null; this.peer = null; }
  postMessage(data) { this.peer?.onmessage?.({ data }); }
}
// What a browser would provide.
globalThis.AudioWorkletNode = class { constructor() { this.port = new Port(); this.parameters = new Map(); } };
const fetchFile = async (path) => ({ ok: true, arrayBuffer: async () => { const b = readFileSync(path); return b.buffer.slice(b.byteOffset, b.byteOffset + b.length); } });
globalThis.fetch = fetchFile;

const module = (name) => import(pathToFileURL(join(folder, "modules", name)).href);
const { HeadAudio } = await module("headaudio.mjs");
const { Processor } = await module("processor.mjs");

async function visemes(samples) {
  const node = new HeadAudio(null, {});
  const worklet = { port: new Port() };
  const processor = new Processor({ sampleRate: 16000 }, worklet);
  worklet.port.onmessage = processor._onmessage.bind(processor);
  node.port.peer = worklet.port;
  worklet.port.peer = node.port;
  await node.loadModel(join(folder, "dist", "model-en-mixed.bin"));
  const now = Object.fromEntries(node.visemeNames.map((name) => [name, 0]));
  node.onvalue = (name, value) => { now[name] = value; };
  const values = [];
  for (let start = 0; start + FRAME <= samples.length; start += FRAME) {
    for (let at = start; at < start + FRAME; at += BLOCK) processor.process(samples.subarray(at, at + BLOCK));
    node.update(40);
    values.push(node.visemeNames.map((name) => now[name]));
  }
  return { names: node.visemeNames, values };
}

for await (const line of createInterface({ input: process.stdin })) {
  if (!line.trim()) continue;
  const bytes = readFileSync(JSON.parse(line).file);
  const samples = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  console.log(JSON.stringify(await visemes(samples)));
}
