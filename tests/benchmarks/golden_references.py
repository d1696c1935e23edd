"""Golden files of other sizes, computed here in plain numpy: nothing of the product is used."""

from __future__ import annotations

import itertools

import numpy as np

# Letters: B slides, N patches, M salient, S sub-salient, I chunk, D embedding, H heads, T queries.


def selection_arrays(
    seed: int = 0,
    *,
    n: int = 61,
    m: int = 5,
    s: int = 7,
    i: int = 9,
    d: int = 24,
    h: int = 4,
    slides: int = 2,
    tasks: dict[str, int] | None = None,
    positions: bool = False,
    ips: bool = False,
) -> dict[str, np.ndarray]:
    """A file as METHODS section 7 describes it; ``tasks`` are names and numbers of classes."""
    rng = np.random.default_rng(seed)
    tasks = tasks or {"grade": 3}
    inner, t = 3 * d, len(tasks)
    weights = {
        "crs_attn.q": 3 * rng.normal(size=(1, t, d)),
        **{f"crs_attn.{k}.weight": rng.normal(size=(d, d)) / d**0.5
           for k in ("q_w", "k_w", "v_w", "fc")},
        "mlp.w_1.weight": rng.normal(size=(inner, d)) / d**0.5,
        "mlp.w_1.bias": rng.normal(size=inner),
        "mlp.w_2.weight": rng.normal(size=(d, inner)) / inner**0.5,
        "mlp.w_2.bias": rng.normal(size=d),
        **{f"{block}.layer_norm.{k}": rng.normal(size=d) + (k == "weight")
           for block in ("crs_attn", "mlp") for k in ("weight", "bias")},
    }  # fmt: skip
    file = {"emb": rng.normal(size=(slides, n, d)).astype(np.float32)}
    file |= {f"state.transf.{k}": w.astype(np.float32) for k, w in weights.items()}
    for task, classes in tasks.items():
        layer = f"state.output_layers.{task}.0"
        file[f"{layer}.weight"] = (rng.normal(size=(classes, d)) / d**0.5).astype(np.float32)
        file[f"{layer}.bias"] = rng.normal(size=classes).astype(np.float32)
    w = {k.removeprefix("state.transf."): v.astype(np.float64) for k, v in file.items()}
    kept, sub, probs = [], [], {task: [] for task in tasks}
    for emb in file["emb"].astype(np.float64):
        placed = emb + position_code(n, d) if positions else emb
        salient, rest = scan(logits(w, placed, h), m, 0 if ips else s, i)
        z = slide_vectors(w, placed[salient], placed[rest], h)
        kept.append(salient)
        sub.append(rest)
        for row, task in zip(z, tasks, strict=True):
            layer = f"state.output_layers.{task}.0"
            probs[task].append(softmax(file[f"{layer}.weight"] @ row + file[f"{layer}.bias"]))
    conf = {"n_class": 3, "M": m, "S": s, "I": i, "D": d, "N": n, "use_pos": positions,
            "n_token": t, "H": h, "D_k": d // h, "D_v": d // h, "D_inner": inner,
            "eps": 1e-06}  # fmt: skip
    file |= {"idx": np.array(kept), "conf": np.array(str(conf))}
    if not ips:
        file["sub_idx"] = np.array(sub)
        file["sub_emb"] = np.stack([e[k] for e, k in zip(file["emb"], sub, strict=True)])
    # in another order than the classifiers
    return file | {f"probs.{task}": np.float32(probs[task]) for task in sorted(tasks)}


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def layer_norm(w: dict, name: str, x: np.ndarray) -> np.ndarray:
    away = x - x.mean(-1, keepdims=True)
    scaled = away / np.sqrt((away**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * w[f"{name}.layer_norm.weight"] + w[f"{name}.layer_norm.bias"]


def position_code(n: int, d: int) -> np.ndarray:
    code = np.empty((n, d))
    for p, k in itertools.product(range(n), range(d // 2)):
        angle = p * 10000.0 ** (-2 * k / d)
        code[p, 2 * k], code[p, 2 * k + 1] = np.sin(angle), np.cos(angle)
    return code


def logits(w: dict, emb: np.ndarray, h: int, ask: np.ndarray | None = None) -> np.ndarray:
    """[H, T, N]."""
    q = (w["crs_attn.q"][0] if ask is None else ask) @ w["crs_attn.q_w.weight"].T
    k = emb @ w["crs_attn.k_w.weight"].T
    width = q.shape[1] // h
    heads = [slice(j * width, (j + 1) * width) for j in range(h)]
    return np.stack([q[:, part] @ k[:, part].T / width**0.5 for part in heads])


def attend(w: dict, ask: np.ndarray, emb: np.ndarray, h: int) -> np.ndarray:
    if not len(emb):
        return np.zeros_like(ask)
    v = emb @ w["crs_attn.v_w.weight"].T
    parts = np.split(v, h, 1)
    seen = [weight @ part for weight, part in zip(softmax(logits(w, emb, h, ask)), parts,
                                                  strict=True)]  # fmt: skip
    return np.concatenate(seen, 1) @ w["crs_attn.fc.weight"].T


def slide_vectors(w: dict, salient: np.ndarray, rest: np.ndarray, h: int) -> np.ndarray:
    q = w["crs_attn.q"][0]
    z1 = q + attend(w, q, salient, h)
    z = layer_norm(w, "crs_attn", z1 + attend(w, layer_norm(w, "crs_attn", z1), rest, h))
    hidden = np.maximum(z @ w["mlp.w_1.weight"].T + w["mlp.w_1.bias"], 0)
    return layer_norm(w, "mlp", hidden @ w["mlp.w_2.weight"].T + w["mlp.w_2.bias"] + z)


def scan(logits_htn: np.ndarray, m: int, s: int, chunk: int) -> tuple[list[int], list[int]]:
    def top(ids: list[int], k: int) -> list[int]:
        ids = sorted(ids)
        score = softmax(logits_htn[:, :, ids]).mean((0, 1)).astype(np.float32)
        return [ids[j] for j in np.argsort(-score, kind="stable")[:k]]

    n = logits_htn.shape[2]
    kept, rest = list(range(min(m, n))), []
    for first in range(m, n, chunk):
        live = kept + list(range(first, min(first + chunk, n)))
        kept = top(live, m)
        rest = top([k for k in live if k not in kept] + rest, s)
    return kept, rest


def patchgd_arrays(
    seed: int = 0,
    *,
    grid: tuple[int, int] = (4, 6),
    edge: int = 4,
    pct: float = 0.25,
    epsilon: int | None = None,
    classes: int = 4,
    layers: int = 2,
    slides: int = 3,
    dtype: type = np.float64,
) -> dict[str, np.ndarray]:
    """One outer step; its gradients are central differences, of the fresh patches alone."""
    rng = np.random.default_rng(seed)
    rows, cols = grid
    num, dim, channels = rows * cols, 3, 2
    size = round(pct * num)
    inner = -(-num // size)
    epsilon = epsilon or inner
    theta = {
        "encoder.conv1.weight": rng.normal(size=(2, 3, 3, 3)) / 3,
        "encoder.conv1.bias": rng.normal(size=2) / 3,
        "encoder.conv2.weight": rng.normal(size=(3, 2, 3, 3)) / 3,
        "encoder.conv2.bias": rng.normal(size=3) / 3,
        "encoder.fc.weight": rng.normal(size=(dim, 3)),
        "encoder.fc.bias": rng.normal(size=dim),
    }
    width, shape = dim, (cols, rows)  # the grid is transposed
    strides = [1, *[2] * (layers - 1)]
    for layer, stride in enumerate(strides):
        theta[f"head.layers.{layer}.0.weight"] = rng.normal(size=(channels, width, 3, 3)) / 2
        theta[f"head.layers.{layer}.0.bias"] = rng.normal(size=channels)
        theta[f"head.layers.{layer}.2.weight"] = rng.normal(size=channels)
        theta[f"head.layers.{layer}.2.bias"] = rng.normal(size=channels)
        width, shape = channels, tuple(-(-edge_ // stride) for edge_ in shape)
    flat = channels * shape[0] * shape[1]
    theta["head.linear.weight"] = rng.normal(size=(classes, flat))
    theta["head.linear.bias"] = rng.normal(size=classes)
    x = rng.normal(size=(slides, 3, rows * edge, cols * edge)).astype(dtype).astype(np.float64)
    theta = {name: w.astype(dtype).astype(np.float64) for name, w in theta.items()}
    y = rng.integers(0, classes, slides)
    patches = (x.reshape(slides, 3, rows, edge, cols, edge).transpose(0, 2, 4, 1, 3, 5)
               .reshape(slides, num, 3, edge, edge))  # fmt: skip
    groups = [min(epsilon, inner - first) for first in range(0, inner, epsilon)]
    shares = [size for size in groups for _ in range(size)]

    stale = embed(theta, patches)

    def encoder_losses(w: dict[str, np.ndarray]) -> float:
        """The sum of all inner losses, ``w`` embedding only what an inner step draws."""
        fresh, total = embed(w, patches), 0.0
        for step, share in enumerate(shares):
            drawn = slice(step * size, (step + 1) * size)
            z = stale.copy()
            z[:, drawn] = fresh[:, drawn]
            total += loss(theta, as_block(z), y, strides) / share
        return total

    def head_losses(w: dict[str, np.ndarray]) -> float:
        """The same for a head ``w``; nothing moves Z, so all inner steps see the same."""
        return loss(w, as_block(stale), y, strides) * sum(1 / share for share in shares)

    def as_block(z: np.ndarray) -> np.ndarray:
        return z.reshape(slides, rows, cols, dim).transpose(0, 3, 2, 1)

    losses = {"encoder": encoder_losses, "head": head_losses}
    grads = {name: differences(losses[name.split(".")[0]], theta, name) for name in theta}
    file = {}
    for name, grad in grads.items():
        part, rest = name.split(".", 1)
        key = f"grad.encoder.{rest}" if part == "encoder" else f"gradnorm.head.{rest}"
        file[key] = grad if part == "encoder" else np.linalg.norm(grad)
        file[f"state.{name}" if part == "encoder" else name] = theta[name].astype(dtype)
    for layer in range(layers):
        norm = f"head.layers.{layer}.2"
        file |= {f"{norm}.running_mean": np.zeros(channels, dtype),
                 f"{norm}.running_var": np.ones(channels, dtype),
                 f"{norm}.num_batches_tracked": np.int64(1)}  # fmt: skip
    return {key: np.asarray(value) for key, value in file.items()} | {
        "x": x.astype(dtype), "y": y, "pct": np.array(pct), "inner": np.array(inner),
        "epsilon": np.array(epsilon), "n_optimizer_steps": np.array(len(groups)),
    }  # fmt: skip


def differences(f, theta: dict[str, np.ndarray], name: str) -> np.ndarray:
    grad, step = np.zeros_like(theta[name]), 1e-5
    for at in np.ndindex(grad.shape):
        ends = []
        for sign in (1, -1):
            moved = theta[name].copy()
            moved[at] += sign * step
            ends.append(f(theta | {name: moved}))
        grad[at] = (ends[0] - ends[1]) / (2 * step)
    return grad


def conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """3 x 3, one cell of zeros around; x [..., C, rows, cols]."""
    x = np.pad(x, [*[(0, 0)] * (x.ndim - 2), (1, 1), (1, 1)])
    rows, cols = x.shape[-2] - 2, x.shape[-1] - 2
    out = 0.0
    for r, q in itertools.product(range(3), range(3)):
        window = x[..., r : r + rows : stride, q : q + cols : stride]
        flat = window.reshape(*window.shape[:-2], -1)
        out = out + (weight[:, :, r, q] @ flat).reshape(*x.shape[:-3], -1, *window.shape[-2:])
    return out + bias[:, None, None]


def embed(w: dict[str, np.ndarray], patches: np.ndarray) -> np.ndarray:
    x = patches
    for layer in ("conv1", "conv2"):
        x = conv(x, w[f"encoder.{layer}.weight"], w[f"encoder.{layer}.bias"], 2)
        x = np.maximum(x, 0)
    return x.mean((-2, -1)) @ w["encoder.fc.weight"].T + w["encoder.fc.bias"]


def loss(w: dict[str, np.ndarray], z: np.ndarray, y: np.ndarray, strides: list[int]) -> float:
    for layer, stride in enumerate(strides):
        name = f"head.layers.{layer}"
        z = np.maximum(conv(z, w[f"{name}.0.weight"], w[f"{name}.0.bias"], stride), 0)
        mean, var = z.mean((0, 2, 3), keepdims=True), z.var((0, 2, 3), keepdims=True)
        scale, shift = (w[f"{name}.2.{k}"][:, None, None] for k in ("weight", "bias"))
        z = (z - mean) / np.sqrt(var + 1e-5) * scale + shift
    logits_bc = z.reshape(len(z), -1) @ w["head.linear.weight"].T + w["head.linear.bias"]
    chosen = softmax(logits_bc)[np.arange(len(y)), y]
    return float(-np.log(chosen).mean())
