// Classifies photos with a home's current model, from JavaScript:
//
//   npm install --ignore-scripts
//   lwm-edge info --home HOME --json > info.json
//   node classify.mjs HOME info.json PHOTO...
//
// onnxruntime-node cannot read a file's metadata. So the class names come from labels.txt beside the file, and the
// preprocessing comes from info.json; it stays the same until `lwm-edge init --replace`. Photos are scaled by sharp. Unless
// a photo has the model's size already, sharp rounds a little differently from lwm-edge.
import { readFile, realpath } from "node:fs/promises";
import path from "node:path";
import process from "node:process";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // keeps ONNX Runtime, which reads this when it loads, from reporting
const ort = (await import("onnxruntime-node")).default;
const sharp = (await import("sharp")).default;

const [home, info, ...photos] = process.argv.slice(2);
if (!photos.length) {
  console.error("usage: node classify.mjs HOME info.json PHOTO...");
  process.exit(2);
}

const current = await realpath(path.join(home, "current")); // once, so that both files belong to the same model
const classNames = (await readFile(path.join(current, "labels.txt"), "utf8")).trimEnd().split("\n");
const { image_size: size, resize_size: side } = JSON.parse(await readFile(info, "utf8")).preprocessing;
const session = await ort.InferenceSession.create(path.join(current, "classifier.onnx"));

async function pixelsOf(photo) {
  const image = sharp(photo).rotate().flatten({ background: "white" }).toColourspace("srgb");
  const whole = await image.toBuffer({ resolveWithObject: true }); // upright
  const scale = side / Math.min(whole.info.width, whole.info.height);
  const [width, height] = [whole.info.width, whole.info.height].map((n) => Math.max(side, Math.round(n * scale)));
  const cut = { left: (width - size) >> 1, top: (height - size) >> 1, width: size, height: size };
  const scaled = sharp(whole.data).resize(width, height, { kernel: "linear", fit: "fill" }).extract(cut);
  return scaled.removeAlpha().raw().toBuffer();
}

for (const photo of photos) {
  const image = new ort.Tensor("uint8", await pixelsOf(photo), [1, size, size, 3]);
  const { probabilities } = await session.run({ image }, ["probabilities"]);
  const best = probabilities.data.indexOf(Math.max(...probabilities.data));
  console.log(`${photo}: ${classNames[best]} ${(100 * probabilities.data[best]).toFixed(1)}%`);
}
