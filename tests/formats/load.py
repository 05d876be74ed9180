"""Run where stock diffusers is installed and nothing of this project: load a folder, draw.

python load.py FOLDER FEEDS RESULTS

FEEDS holds ``latents``, ``labels``, ``timestep`` of one forward pass and ``noise``, ``classes`` of
pictures; RESULTS gets ``forward`` and the ``pictures``' latents. The card's own lines run first.
"""

import importlib.util
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

folder, feeds, results = map(Path, sys.argv[1:4])
assert importlib.util.find_spec("ditas_core") is None, "expected an environment without it"
card = (folder / "README.md").read_text(encoding="utf-8")
code = card.split("```python\n")[1].split("```")[0]
assert len(code.splitlines()) == 5
names = {}
exec(code.replace("FOLDER", str(folder)).replace("0.png", f"{results}.png"), names)
feed, found = load_file(feeds), {}
network = names["pipeline"].transformer if "pipeline" in names else names["transformer"]
arguments = {k: v for k, v in feed.items() if k not in ("latents", "timestep", "noise", "classes")}
with torch.no_grad():
    found["forward"] = network(feed["latents"], timestep=feed["timestep"], **arguments).sample
    if "pipeline" in names:
        assert Path(f"{results}.png").is_file()
    if "noise" in feed:
        scheduler, scale = names["pipeline"].scheduler, float(re.search(r"scale=([\d.]+)", code)[1])
        steps = int(re.search(r"steps=(\d+)", code)[1])
        scheduler.set_timesteps(steps)
        latents, classes = feed["noise"], feed["classes"]
        both = torch.cat([classes, torch.full_like(classes, 1000)])
        for t in scheduler.timesteps:
            times = t.expand(len(both))
            noise = network(torch.cat([latents] * 2), timestep=times, class_labels=both).sample
            given, free = noise[:, : latents.shape[1]].chunk(2)
            latents = scheduler.step(free + scale * (given - free), t, latents).prev_sample
        found["pictures"] = latents
save_file({key: value.float().contiguous() for key, value in found.items()}, results)
print("loaded", type(network).__name__, "and drew" if "pipeline" in names else "")
