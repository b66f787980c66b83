"""What the phantoms look like: one function per organ and modality, grey 0 to 1 as it is displayed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ingest.phantoms.shapes import Canvas, Patient, X, Y, curve, ellipse, empty, paint, ring, soft, tube

Drawing = Callable[[Patient], Canvas]


def head(p: Patient, bone: float, brain: float, fluid: float) -> Canvas:
    a, b = p.near(0.62) * p.size * (1 - 0.12 * p.z**2), p.near(0.78) * p.size * (1 - 0.12 * p.z**2)
    g = paint(empty(), ellipse(0, 0, a, b), 0.35)
    g = paint(g, ring(0, 0, a - 0.03, b - 0.03, 0.07), bone)
    g = paint(g, ellipse(0, 0, a - 0.1, b - 0.1), brain)
    g = g + ellipse(0, 0, a - 0.12, b - 0.12) * p.texture(22) * 0.035
    w, h, tilt = p.near(0.09, 0.3), p.near(0.26) * (1 - 0.3 * abs(p.z)), p.near(0.25)
    for side in (-1, 1):
        g = paint(g, ellipse(side * 0.13, -0.05, w, h, side * tilt), fluid)
    return paint(g, tube(0, -b + 0.12, 0, b - 0.12, 0.006), fluid)


def brain_ct(p: Patient) -> Canvas:
    return head(p, bone=1.0, brain=0.45, fluid=0.2)


def brain_mr(p: Patient) -> Canvas:
    g = head(p, bone=0.05, brain=0.55, fluid=0.08)
    folds = np.sin(14 * np.arctan2(Y, X) + 3 * p.texture(5)) * ring(0, 0, 0.55, 0.68, 0.16)
    return g + 0.12 * folds


def brain_pt(p: Patient) -> Canvas:
    g = empty(0.02)
    for r, level in ((0.6, 0.55), (0.42, 0.35)):
        g = paint(g, ellipse(0, 0, r * p.size, 1.25 * r * p.size, edge=0.2), level)
    for side in (-1, 1):
        g = paint(g, ellipse(side * 0.17, 0, p.near(0.1), p.near(0.15), edge=0.12), 0.9)
    return g + g * p.texture(26) * 0.08


def torso(p: Patient, tissue: float = 0.5) -> Canvas:
    """Axial body outline with fat rim, spine and aorta."""
    g = paint(empty(), ellipse(0, 0, 0.92 * p.size, p.near(0.66) * p.size), 0.28)
    g = paint(g, ellipse(0, 0, 0.84 * p.size, 0.58 * p.size), tissue)
    g = paint(g, ellipse(0, 0.4, 0.13, 0.11), 0.95)
    g = paint(g, tube(0, 0.5, 0, 0.62, 0.03), 0.9)
    g = paint(g, ellipse(0, 0.41, 0.045, 0.04), 0.6)
    return paint(g, ellipse(-0.13, 0.25, 0.055, 0.055), 0.68)


def lungs_ct(p: Patient) -> Canvas:
    g = torso(p)
    for side in (-1, 1):
        a, b = p.near(0.3), p.near(0.42) * (1 - 0.2 * p.z)
        lung = ellipse(side * 0.43, 0, a, b, side * -0.1)
        g = paint(g, lung, 0.06)
        g = g + lung * np.clip(p.texture(34), 0.8, 3) * 0.14
        g = paint(
            g, ring(side * 0.43, 0, a + 0.06, b + 0.06, 0.025) * (np.sin(9 * np.arctan2(Y, X)) > 0.2), 0.95
        )
    return paint(g, ellipse(0.1, -0.1, p.near(0.22), p.near(0.2)), 0.6)


def abdomen(p: Patient) -> Canvas:
    g = torso(p, 0.4)
    return g + ellipse(0, 0, 0.8, 0.55) * p.texture(9) * 0.05


def liver_ct(p: Patient) -> Canvas:
    g = abdomen(p)
    liver = np.maximum(
        ellipse(-0.38, -0.02, p.near(0.4), p.near(0.42)), ellipse(0, -0.22, p.near(0.4), p.near(0.18))
    )
    g = paint(g, liver, 0.62)
    for _ in range(5):
        x, y = p.between(-0.6, -0.15), p.between(-0.25, 0.2)
        g = paint(g, tube(x, y, x + 0.15, y - 0.1 + 0.1 * p.z, 0.014), 0.78)
    return paint(g, ellipse(0.6, 0.1, 0.16, 0.24), 0.6)


def stomach_ct(p: Patient) -> Canvas:
    g = abdomen(p)
    g = paint(g, ellipse(-0.5, 0.05, 0.26, 0.36), 0.58)
    a, b, turn = p.near(0.36), p.near(0.24) * (1 - 0.15 * p.z), p.near(0.5)
    g = paint(g, ellipse(0.3, -0.12, a, b, -turn), 0.6)
    g = paint(g, ellipse(0.3, -0.12, a - 0.05, b - 0.05, -turn), 0.46)
    return paint(g, ellipse(0.32, -0.2, a - 0.12, b * 0.4, -turn), 0.02)


def kidney_ct(p: Patient) -> Canvas:
    g = abdomen(p)
    for side in (-1, 1):
        a, b = p.near(0.17), p.near(0.24) * (1 - 0.25 * p.z**2)
        kidney = ellipse(side * 0.42, 0.22, a, b, side * 0.5)
        g = paint(g, kidney, 0.88)
        g = paint(g, ellipse(side * 0.33, 0.2, a * 0.5, b * 0.4, side * 0.5), 0.35)
    for _ in range(6):
        x, y = p.between(-0.5, 0.5), p.between(-0.4, -0.05)
        g = paint(g, ring(x, y, 0.11, 0.09, 0.03), 0.55)
    return g


def uterus_mr(p: Patient) -> Canvas:
    g = paint(empty(), ellipse(0, 0, 0.9 * p.size, 0.7 * p.size), 0.75)
    g = paint(g, ellipse(0, 0, 0.75, 0.55), 0.35)
    for side in (-1, 1):
        g = paint(g, ellipse(side * 0.62, 0.1, 0.14, 0.2), 0.15)
    tilt = p.near(0.4)
    g = paint(g, ellipse(0, -0.02, p.near(0.34), p.near(0.24), tilt), 0.5)
    g = paint(g, ring(0, -0.02, 0.2, 0.12, 0.035, tilt), 0.18)
    g = paint(g, ellipse(0, -0.02, 0.15, 0.07 * (1.3 + p.z), tilt), 0.9)
    return paint(g, ellipse(0.02, -0.36, p.near(0.26), p.near(0.11)), 0.97)


def heart_mr(p: Patient) -> Canvas:
    g = paint(empty(), ellipse(0, 0, 0.92 * p.size, 0.72 * p.size), 0.5)
    for side in (-1, 1):
        g = paint(g, ellipse(side * 0.5, -0.05, 0.32, 0.45), 0.05)
    r = p.near(0.22) * (1 - 0.25 * p.z)
    g = paint(g, ellipse(0.12, 0, r + 0.1, r + 0.08), 0.25)
    g = paint(g, ellipse(0.12, 0, r, r * 0.95), 0.92)
    return paint(g, ellipse(-0.2, -0.06, p.near(0.13), p.near(0.22), 0.3), 0.85)


def breast_mr(p: Patient) -> Canvas:
    g = paint(empty(), ellipse(0, 0.75, 0.95, 0.5), 0.35)
    for side in (-1, 1):
        a, b = p.near(0.36), p.near(0.55) * (1 - 0.2 * p.z**2)
        breast = ellipse(side * 0.45, 0.2, a, b)
        g = paint(g, breast, 0.75)
        g = g + breast * np.clip(p.texture(12), 0, 2) * -0.25
    return g


def breast_mg(p: Patient) -> Canvas:
    a, b = p.near(1.15) * p.size, p.near(0.82)
    outline = ellipse(-1, 0.05 * p.z, a, b, edge=0.05)
    g = outline * 0.35
    gland = ellipse(-0.7, 0, a * 0.55, b * 0.65, edge=0.4)
    fibres = np.abs(np.sin(7 * np.arctan2(Y, X + 1.4) + p.texture(6))) ** 3
    g = g + gland * (0.25 + 0.25 * fibres) + outline * p.texture(30) * 0.03
    return paint(g, soft(X + 1.15 + 0.45 * (Y + 1), 0.05) * outline, 0.85)


def chest_dx(p: Patient) -> Canvas:
    g = paint(empty(0.05), ellipse(0, 0.35, 0.95 * p.size, 1.15, edge=0.1), 0.72)
    a, b = p.near(0.29), p.near(0.55)
    for side in (-1, 1):
        g = paint(g, ellipse(side * 0.4, -0.1, a, b, side * 0.12, edge=0.08), 0.2)
        for k in range(8):
            y = -0.62 + 0.15 * k
            ends = [(side * 0.08, y), (side * 0.4, y - 0.04), (side * 0.68, y + 0.16)]
            g = g + 0.1 * curve(ends, 0.025)
        g = g + 0.16 * tube(side * 0.06, -0.66, side * 0.62, -0.72, 0.03)
    g = paint(g, tube(0, -0.9, 0, 0.9, 0.1, edge=0.08), 0.8)
    return paint(g, ellipse(0.15, 0.25, p.near(0.28, 0.15), p.near(0.25), 0.5, edge=0.08), 0.82)


def spine_mr(p: Patient) -> Canvas:
    g = paint(empty(0.08), soft(np.abs(X) - 0.8, 0.1), 0.4) + p.texture(8) * 0.06
    bend = p.near(0.12, 0.5)
    for k in range(7):
        y = -0.85 + 0.28 * k
        x = -0.12 + bend * math.sin(2.2 * y)
        g = paint(g, ellipse(x, y, 0.19, 0.105, 0.1), 0.62)
        g = paint(g, ellipse(x, y + 0.14, 0.18, 0.03, 0.1), 0.15 if k % 3 else 0.8)
    canal = soft(np.abs(X - 0.16 - bend * np.sin(2.2 * Y)) - 0.06)
    g = paint(g, canal, 0.95)
    return paint(g, soft(np.abs(X - 0.16 - bend * np.sin(2.2 * Y)) - 0.025), 0.45)


def spine_dx(p: Patient) -> Canvas:
    g = empty(0.25) + ellipse(0, 0, 0.8, 1.3, edge=0.5) * 0.15
    bend = p.near(0.06, 0.9)
    for k in range(7):
        y = -0.88 + 0.28 * k
        x = bend * math.sin(2 * y)
        g = paint(g, ellipse(x, y, 0.24, 0.11), 0.72)
        g = paint(g, ring(x, y, 0.25, 0.12, 0.03), 0.92)
        for side in (-1, 1):
            g = paint(g, ellipse(x + side * 0.11, y, 0.035, 0.05), 0.95)
            g = paint(g, tube(x + side * 0.22, y, x + side * 0.42, y - 0.04, 0.03), 0.62)
    return g


def knee_dx(p: Patient) -> Canvas:
    g = paint(empty(0.04), soft(np.abs(X) - p.near(0.55), 0.1), 0.35)
    w = p.near(0.2)
    for sign in (-1, 1):
        g = paint(g, tube(0, sign * 1.1, 0, sign * 0.35, w * (0.85 if sign > 0 else 0.75)), 0.7)
        for side in (-1, 1):
            g = paint(g, ellipse(side * w * 0.85, sign * 0.2, w * 0.95, 0.17), 0.8)
    g = paint(g, ellipse(0, -0.22, w * 0.6, 0.17), 0.92)
    return paint(g, tube(w * 2, 0.4, w * 1.8, 1.1, 0.06), 0.62)


def knee_mr(p: Patient) -> Canvas:
    g = paint(empty(), soft(np.abs(X) - 0.8, 0.08), 0.42) + p.texture(7) * 0.04
    g = paint(g, np.maximum(tube(0, -1.1, 0.02, -0.4, 0.28), ellipse(0, -0.25, p.near(0.42), 0.28)), 0.75)
    g = paint(g, np.maximum(tube(0.02, 1.1, 0, 0.4, 0.24), ellipse(0, 0.28, p.near(0.42), 0.2)), 0.72)
    g = paint(g, ring(0, -0.25, 0.44, 0.3, 0.03), 0.05)
    for side in (-1, 1):
        g = paint(g, ellipse(side * 0.28, 0.04, 0.15, 0.035, side * 0.2 * (1 + p.z)), 0.02)
    return paint(g, ellipse(-0.58, -0.35, p.near(0.09), 0.2), 0.7)


def hand_dx(p: Patient) -> Canvas:
    g = empty(0.04)
    spread = p.near(0.16)
    bones: list[Canvas] = []
    for k in range(5):
        angle = -math.pi / 2 + (k - 2) * spread + (0.0 if k else -0.45)
        x, y = (k - 2) * 0.12, 0.3 if k else 0.42
        length = (0.24, 0.33, 0.36, 0.33, 0.28)[k] * p.size
        for part in range(3 if k == 0 else 4):
            reach = length * (0.95, 0.75, 0.5, 0.38)[part]
            nx, ny = x + reach * math.cos(angle), y + reach * math.sin(angle)
            g = paint(g, tube(x, y, nx, ny, 0.075, edge=0.04), 0.35)
            bones.append(tube(x + 0.02 * math.cos(angle), y + 0.02 * math.sin(angle), nx, ny, 0.034))
            x, y = nx + 0.02 * math.cos(angle), ny + 0.02 * math.sin(angle)
    g = paint(g, ellipse(0, 0.4, 0.36, 0.3, edge=0.05), 0.35)
    g = paint(g, tube(0, 0.6, 0, 1.1, 0.24), 0.33)
    bones += [ellipse(-0.16 + 0.11 * k, 0.5 + 0.1 * j, 0.055, 0.055) for k in range(4) for j in range(2)]
    bones += [tube(side * 0.11, 0.75, side * 0.12, 1.1, 0.09) for side in (-1, 1)]
    for bone in bones:
        g = paint(g, bone, 0.85)
    return g


def teeth_dx(p: Patient) -> Canvas:
    g = empty(0.3) + p.texture(5) * 0.05
    g = paint(g, ring(0, -0.55, 1.1, 1.15, 0.28) * (Y > -0.3), 0.6)
    width = p.near(0.085)
    for k in range(-6, 7):
        x = k * 0.13
        gap = 0.02 + 0.16 * (k / 6) ** 2
        for sign in (-1, 1):
            top = 0.02 - gap + sign * 0.04 + 0.02 * p.z
            g = paint(g, tube(x, top + sign * 0.05, x, top + sign * 0.2, width * 0.55), 0.95)
            g = paint(g, tube(x, top + sign * 0.22, x * 1.02, top + sign * 0.42, width * 0.32), 0.75)
            g = paint(g, tube(x, top + sign * 0.12, x, top + sign * 0.35, 0.012), 0.45)
    return g


def neck(p: Patient) -> Canvas:
    g = paint(empty(), ellipse(0, 0, p.near(0.55) * p.size, p.near(0.6) * p.size), 0.45)
    return g + ellipse(0, 0, 0.5, 0.55) * p.texture(10) * 0.05


def neck_ct(p: Patient) -> Canvas:
    g = neck(p)
    g = paint(g, ellipse(0, 0.2, 0.15, 0.13), 0.95)
    g = paint(g, ellipse(0, -0.22, p.near(0.1), p.near(0.09)), 0.0)
    g = paint(
        g,
        curve([(-0.35, 0.0), (-0.28, -0.35), (0, -0.5), (0.28, -0.35), (0.35, 0.0)], 0.05 + 0.02 * p.z),
        0.98,
    )
    for side in (-1, 1):
        g = paint(g, ellipse(side * 0.28, 0.02, 0.06, 0.06), 0.8)
    return g


def neck_pt(p: Patient) -> Canvas:
    g = neck(p) * 0.25
    g = paint(g, ellipse(0, -0.15, 0.12, 0.1, edge=0.1), 0.45)
    x, y = p.between(-0.3, 0.3), p.between(-0.3, 0.1)
    return paint(g, ellipse(x, y, p.near(0.1), p.near(0.1), edge=0.1), 1.0)


def fundus_op(p: Patient) -> Canvas:
    g = paint(empty(), ellipse(0, 0, 0.93, 0.93), 0.45) + ellipse(0, 0, 0.9, 0.9, edge=0.8) * 0.12
    side = 1 if p.rng.random() < 0.5 else -1
    x, y = side * p.near(0.38), p.between(-0.06, 0.06)
    for k in range(10):
        angle = 2 * math.pi * k / 10 + p.between(-0.25, 0.25)
        points = [(x, y)]
        for step in range(1, 7):
            turn = angle + 0.25 * math.sin(step + k)
            points.append((points[-1][0] + 0.14 * math.cos(turn), points[-1][1] + 0.14 * math.sin(turn)))
        g = paint(g, curve(points, 0.012) * ellipse(0, 0, 0.92, 0.92), 0.25)
    g = paint(g, ellipse(x, y, p.near(0.14), p.near(0.15), edge=0.05), 0.95)
    return paint(g, ellipse(x - side * 0.6, y, 0.13, 0.13, edge=0.2), 0.25)


def fan(p: Patient, inside: Canvas) -> Canvas:
    """An ultrasound sector: speckle, and echoes that fade with depth."""
    depth, angle = np.hypot(X, Y + 1.05), np.arctan2(X, Y + 1.05)
    speckle = np.abs(p.slice_rng.standard_normal(X.shape)) * 0.5 + np.abs(p.texture(64)) * 0.35
    sector = soft(depth - 1.9) * soft(0.25 - depth) * soft(np.abs(angle) - 0.62)
    return np.asarray(np.clip(inside, 0, 1) * speckle * np.exp(-0.25 * depth) * 1.3 * sector, np.float32)


def breast_us(p: Patient) -> Canvas:
    layers = 0.5 + 0.35 * np.sin(9 * Y + p.texture(5))
    mass = ellipse(p.between(-0.2, 0.2), 0.05, p.near(0.27, 0.2), p.near(0.17, 0.2))
    return fan(p, paint(np.asarray(layers, np.float32), mass, 0.08))


def ovary_us(p: Patient) -> Canvas:
    g = paint(empty(0.45), ellipse(0, 0, p.near(0.5), p.near(0.36)), 0.62)
    for _ in range(6):
        r = p.between(0.06, 0.15)
        g = paint(g, ellipse(p.between(-0.32, 0.32), p.between(-0.2, 0.2), r, r * 0.9), 0.0)
    return fan(p, g)


def kidney_us(p: Patient) -> Canvas:
    g = paint(empty(0.5), ellipse(0, 0, p.near(0.6), p.near(0.3), 0.2), 0.3)
    g = paint(g, ring(0, 0, 0.61, 0.31, 0.03, 0.2), 0.95)
    return fan(p, paint(g, ellipse(0, 0, p.near(0.35), 0.12 + 0.03 * p.z, 0.2, edge=0.1), 1.0))


def liver_us(p: Patient) -> Canvas:
    g = empty(0.55)
    for _ in range(5):
        x, y = p.between(-0.5, 0.4), p.between(-0.3, 0.4)
        g = paint(g, tube(x, y, x + 0.2, y + 0.08, 0.03), 0.02)
    line = np.abs(Y - 0.62 - 0.2 * X**2 + 0.03 * p.z)
    return fan(p, paint(g, soft(line - 0.02), 1.0))


def heart_us(p: Patient) -> Canvas:
    g = paint(empty(0.35), ellipse(0, 0.1, p.near(0.5), p.near(0.68)), 0.9)
    for x, y, a, b in (
        (-0.22, -0.1, 0.17, 0.3),
        (0.2, -0.12, 0.15, 0.3),
        (-0.2, 0.46, 0.17, 0.18),
        (0.2, 0.46, 0.17, 0.18),
    ):
        g = paint(g, ellipse(x, y, p.near(a), b * (1 + 0.12 * p.z)), 0.0)
    return fan(p, g)


@dataclass(frozen=True)
class Phantom:
    organ: str
    modality: str
    body_part_examined: str
    draw: Drawing


PHANTOMS = (
    Phantom("brain", "CT", "HEAD", brain_ct),
    Phantom("brain", "MR", "BRAIN", brain_mr),
    Phantom("brain", "PT", "BRAIN", brain_pt),
    Phantom("breast", "MG", "BREAST", breast_mg),
    Phantom("breast", "MR", "BREAST", breast_mr),
    Phantom("breast", "US", "BREAST", breast_us),
    Phantom("chest", "DX", "CHEST", chest_dx),
    Phantom("eye", "OP", "EYE", fundus_op),
    Phantom("hand", "DX", "HAND", hand_dx),
    Phantom("head-neck", "CT", "NECK", neck_ct),
    Phantom("head-neck", "PT", "NECK", neck_pt),
    Phantom("heart", "MR", "HEART", heart_mr),
    Phantom("heart", "US", "HEART", heart_us),
    Phantom("kidney", "CT", "KIDNEY", kidney_ct),
    Phantom("kidney", "US", "KIDNEY", kidney_us),
    Phantom("knee", "DX", "KNEE", knee_dx),
    Phantom("knee", "MR", "KNEE", knee_mr),
    Phantom("liver", "CT", "LIVER", liver_ct),
    Phantom("liver", "US", "LIVER", liver_us),
    Phantom("lungs", "CT", "CHEST", lungs_ct),
    Phantom("ovary", "US", "OVARY", ovary_us),
    Phantom("spine", "DX", "SPINE", spine_dx),
    Phantom("spine", "MR", "SPINE", spine_mr),
    Phantom("stomach", "CT", "STOMACH", stomach_ct),
    Phantom("teeth", "DX", "TEETH", teeth_dx),
    Phantom("uterus", "MR", "UTERUS", uterus_mr),
)
