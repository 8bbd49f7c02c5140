// An exported network in JavaScript: its description, and its answer for one picture.
// `ort` is onnxruntime-web, in Node or in a browser; `bytes` (Uint8Array) is the file.

/** Read the network's description: {classes, outputs, image_size, threshold, ...}. */
export function readDescription(bytes) {
  // The file is a Protocol Buffers message; field 14 holds pairs of key (1) and value (2).
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const entry = Object.fromEntries(fields(value));
    if (text(entry[1]) === "inceptcli") return JSON.parse(text(entry[2]));
  }
  throw new Error("not a network that inceptcli has exported");
}

/** Load the network. */
export async function load(ort, bytes) {
  return { ort, session: await ort.InferenceSession.create(bytes), ...readDescription(bytes) };
}

/** Classify one picture: RGB bytes, row by row. Returns [name, probability], likeliest first. */
export async function classify(model, rgb, width, height) {
  const image = new model.ort.Tensor("uint8", rgb, [1, height, width, 3]);
  const { probabilities } = await model.session.run({ image });
  const pairs = model.outputs.map((name, index) => [name, probabilities.data[index]]);
  return pairs.sort((one, other) => other[1] - one[1]);
}

const text = (bytes) => new TextDecoder().decode(bytes);

/** The fields of a message: pairs of number and bytes (or a number, which is not needed here). */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (!(byte & 128)) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    if (kind === 2) {
      const length = varint();
      yield [tag >> 3, bytes.subarray(at, (at += length))];
    } else if (kind === 0) {
      yield [tag >> 3, varint()];
    } else {
      throw new Error("not an ONNX file");
    }
  }
}
