"""Ask a server what is on an image: python examples/serve/client.py photo.jpg [http://127.0.0.1:8000]."""

import json
import sys
import urllib.request
from pathlib import Path

image = Path(sys.argv[1])
address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000"
request = urllib.request.Request(f"{address}/predict?name={image.name}", image.read_bytes(), method="POST")
with urllib.request.urlopen(request, timeout=60) as answer:
    for row in json.load(answer):
        print(row.get("category", ""), row.get("score", ""), row.get("bbox", ""))
