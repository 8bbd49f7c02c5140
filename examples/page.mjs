// The page: a photograph that is dropped on it or chosen is classified in the browser.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { classify, load } from "./model.mjs";

const [drop, file, photo, answer, status] = ["drop", "file", "photo", "answer", "status"].map(
  (id) => document.getElementById(id),
);
ort.env.wasm.numThreads = 1; // more need a server that isolates the page

const model = await fetched("model.onnx").catch((error) => {
  status.textContent = `The network cannot be loaded: ${error.message}`;
  throw error;
});
status.textContent = `Ready: ${model.classes.length} classes`;

file.onchange = () => show(file.files[0]);
document.ondragover = (event) => {
  event.preventDefault();
  drop.classList.add("over");
};
document.ondragleave = () => drop.classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  show(event.dataTransfer.files[0]);
};

async function fetched(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return load(ort, new Uint8Array(await response.arrayBuffer()));
}

async function show(chosen) {
  if (!chosen) return;
  try {
    const { rgb, width, height } = await pixels(chosen);
    URL.revokeObjectURL(photo.src);
    photo.src = URL.createObjectURL(chosen);
    photo.hidden = false;
    status.textContent = "Looking …";
    await new Promise(requestAnimationFrame); // let that be seen
    const start = performance.now();
    const pairs = await classify(model, rgb, width, height);
    answer.replaceChildren(...pairs.slice(0, 5).map(row));
    const time = Math.round(performance.now() - start);
    const sure = pairs[0][1] >= model.threshold ? "" : ", uncertain";
    status.textContent = `${width} x ${height} pixels, ${time} ms${sure}`;
  } catch (error) {
    photo.hidden = true;
    answer.replaceChildren();
    status.textContent = `This file cannot be classified: ${error.message}`;
  }
}

/** The picture as the network wants it: upright, on white, RGB. */
async function pixels(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return { rgb, width, height };
}

function row([name, probability]) {
  const line = document.createElement("tr");
  const [label, bar, number] = ["td", "td", "td"].map((tag) => document.createElement(tag));
  label.textContent = name;
  bar.append(document.createElement("div"));
  bar.firstChild.className = "bar";
  bar.firstChild.style.width = `${100 * probability}%`;
  number.textContent = probability.toFixed(4);
  line.append(label, bar, number);
  return line;
}
