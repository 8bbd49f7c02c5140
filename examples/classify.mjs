// Name the class of photographs: node classify.mjs model.onnx PHOTO...
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import sharp from "sharp";
import { classify, load } from "./model.mjs";

const [file, ...photos] = process.argv.slice(2);
const model = await load(ort, new Uint8Array(await readFile(file)));
for (const photo of photos) {
  const picture = sharp(photo).rotate().flatten({ background: "white" }).toColourspace("srgb");
  const { data, info } = await picture.raw().toBuffer({ resolveWithObject: true });
  const [[name, probability]] = await classify(model, new Uint8Array(data), info.width, info.height);
  console.log([photo, name, probability.toFixed(4)].join("\t"));
}
