"""Name the class of photographs: python classify.py model.onnx PHOTO..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
names = json.loads(session.get_modelmeta().custom_metadata_map["inceptcli"])["outputs"]
for path in sys.argv[2:]:
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    white = Image.new("RGBA", photo.size, "white")
    image = np.array(Image.alpha_composite(white, photo).convert("RGB"))
    probabilities = session.run(None, {"image": image[None]})[0][0]
    best = int(probabilities.argmax())
    print(path, names[best], f"{probabilities[best]:.4f}", sep="\t")
