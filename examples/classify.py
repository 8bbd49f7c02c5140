"""Name the class of photographs: python classify.py model.onnx PHOTO..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
names = json.loads(session.get_modelmeta().custom_metadata_map["inceptcli"])["outputs"]
for path in sys.argv[2:]:
    image = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    (probabilities,) = session.run(None, {"image": image[None]})[0]
    best = int(probabilities.argmax())
    print(path, names[best], f"{probabilities[best]:.4f}", sep="\t")
