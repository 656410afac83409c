"""`shapes`: a rendered room with one object, after 3dshapes (Burgess and Kim, 2018). Rendered here, not the original.

Every image is a sum over the materials floor, wall and object: pixel = sum_m shading_m * colour_m. The shading does not
depend on the hues, so it is ray-cast once for each of the 480 (scale, shape, orientation) and kept; an image is then a
product of two small matrices. The floor is z = 0, the object stands at the origin, the camera moves around it.
"""

import colorsys
import functools
import math

import numpy as np

from betadiffusion.data.protocols import DataError
from betadiffusion.data.rendered import RenderedSet

SHAPES = ("cube", "cylinder", "sphere", "capsule")
SCALES = np.linspace(0.75, 1.25, 8)
AZIMUTHS = np.radians(np.linspace(-30, 30, 15))
COLOURS = 255 * np.array([colorsys.hsv_to_rgb(hue / 10, 0.95, 1.0) for hue in range(10)], np.float32)

CAMERA_DISTANCE, CAMERA_HEIGHT, TARGET_HEIGHT = 4.2, 2.2, 0.7
HALF_VIEW = math.tan(math.radians(18.5))
WALL_X, WALL_Y = 2.35, 1.7  # side walls at x = -WALL_X and WALL_X, back wall at y = WALL_Y
LIGHT = np.array([-0.45, -0.6, 1.0]) / math.hypot(0.45, 0.6, 1.0)
AMBIENT = 0.35


class Shapes(RenderedSet):
    """480,000 images of a room: floor hue, wall hue and object hue (10 each), scale (8), shape (4), orientation (15).

    size: side in pixels. Memory: 480 * 3 * size^2 floats for all sets of a size, filled as they are needed. DataError
    unless channels is 3.
    """

    name = "shapes"
    factor_names = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
    factor_sizes = (10, 10, 10, 8, 4, 15)

    def __init__(self, size: int = 64, channels: int = 3) -> None:
        if channels != 3:
            raise DataError(f"The set shapes varies hues, so it needs 3 channels, not {channels}.")
        super().__init__(size, channels)
        self._shading, self._ready = _table(size, math.prod(self.factor_sizes[3:]))

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (B,), as (B, 3, H, W) uint8."""
        factors = self.factors(indices)
        geometry = np.ravel_multi_index(tuple(factors[:, 3:].T), self.factor_sizes[3:])
        for missing in np.unique(geometry[~self._ready[geometry]]):
            scale, shape, azimuth = np.unravel_index(missing, self.factor_sizes[3:])
            view = SHAPES[shape], float(SCALES[scale]), float(AZIMUTHS[azimuth])
            self._shading[missing] = _shade(self.image_shape[1], *view)
            self._ready[missing] = True
        colours = COLOURS[factors[:, :3]]  # (B, material, rgb)
        pixels = colours.swapaxes(1, 2) @ self._shading[geometry]
        return (pixels + 0.5).astype(np.uint8).reshape(-1, *self.image_shape)


@functools.cache
def _table(size: int, geometries: int) -> tuple[np.ndarray, np.ndarray]:
    """The shading of each geometry, (geometries, 3, size * size), and whether it is there: one for all sets."""
    return np.zeros((geometries, 3, size * size), np.float32), np.zeros(geometries, bool)


def _shade(size: int, shape: str, scale: float, azimuth: float) -> np.ndarray:
    """Brightness in [0, 1] of floor, wall and object in every pixel, (3, size * size), each 0 where it is not seen."""
    samples = max(3, 128 // size)  # per pixel and axis
    camera, rays = _camera(size * samples, azimuth)
    distance = _hit(shape, scale, camera, rays)
    seen = np.isfinite(distance)
    room, normals, on_floor = _room(camera, rays)
    points = camera + np.where(seen, distance, room)[:, None] * rays
    normals[seen] = _normals(shape, scale, points[seen])

    lambert = (normals @ LIGHT).clip(0)
    lambert[~seen] *= np.isinf(_hit(shape, scale, points[~seen], LIGHT))  # the shadow of the object
    brightness = AMBIENT + (1 - AMBIENT) * lambert
    materials = np.stack([on_floor & ~seen, ~on_floor & ~seen, seen])
    return (materials * brightness).reshape(3, size, samples, size, samples).mean((2, 4)).reshape(3, -1)


def _camera(pixels: int, azimuth: float) -> tuple[np.ndarray, np.ndarray]:
    """The camera's place (3,) and one unit ray through the middle of each pixel, (pixels^2, 3)."""
    place = np.array([CAMERA_DISTANCE * math.sin(azimuth), -CAMERA_DISTANCE * math.cos(azimuth), CAMERA_HEIGHT])
    forward = np.array([0, 0, TARGET_HEIGHT]) - place
    forward /= np.linalg.norm(forward)
    right = np.array([math.cos(azimuth), math.sin(azimuth), 0])
    up = np.cross(right, forward)
    axis = HALF_VIEW * ((2 * np.arange(pixels) + 1) / pixels - 1)
    rays = (forward + axis[:, None] * right - axis[:, None, None] * up).reshape(-1, 3)
    return place, rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _room(camera: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance (N,) and inward normal (N, 3) of what a ray from inside the room meets, and whether it is the floor."""
    x, y, z = rays.T
    with np.errstate(divide="ignore"):
        floor = np.where(z < 0, -camera[2] / z, np.inf)
        back = np.where(y > 0, (WALL_Y - camera[1]) / y, np.inf)
        side = (WALL_X - np.sign(x) * camera[0]) / np.abs(x)
    distances = np.stack([floor, back, side])
    nearest = distances.argmin(0)
    normals = np.array([[0.0, 0, 1], [0, -1, 0], [-1, 0, 0]])[nearest]
    normals[:, 0] *= np.sign(x)
    return distances.min(0), normals, nearest == 0


def _dimensions(shape: str, scale: float) -> tuple[float, float]:
    """Radius (half the side of the cube) and height."""
    radius, height = {"cube": (0.5, 1.0), "cylinder": (0.5, 1.1), "sphere": (0.6, 1.2), "capsule": (0.42, 1.4)}[shape]
    return radius * scale, height * scale


def _hit(shape: str, scale: float, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Distance at which rays (N, 3) or (3,) from origin (3,) or (N, 3) enter the object, (N,); inf where they miss."""
    radius, height = _dimensions(shape, scale)
    if shape == "cube":
        return _box(origin, rays, radius, height)
    if shape == "cylinder":
        return np.minimum(_side(origin, rays, radius, 0, height), _disc(origin, rays, radius, height))
    if shape == "sphere":
        return _sphere(origin, rays, radius, radius)
    ends = np.minimum(_sphere(origin, rays, radius, radius), _sphere(origin, rays, radius, height - radius))
    return np.minimum(ends, _side(origin, rays, radius, radius, height - radius))


def _normals(shape: str, scale: float, points: np.ndarray) -> np.ndarray:
    """Outward unit normals (N, 3) at points (N, 3) on the surface."""
    radius, height = _dimensions(shape, scale)
    if shape == "cube":
        offset = points - [0, 0, height / 2]
        face = np.abs(offset).argmax(1)[:, None] == np.arange(3)
        return np.sign(offset) * face
    if shape == "cylinder":
        top = (points[:, 2:] > height - 1e-9) * [0.0, 0, 1]
        return np.where(top.any(1, keepdims=True), top, points / radius * [1, 1, 0])
    core = points[:, 2].clip(radius, height - radius)  # the nearest point of the axis; the middle of a sphere
    return (points - core[:, None] * [0, 0, 1]) / radius


def _box(origin: np.ndarray, rays: np.ndarray, half: float, height: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = ([-half, -half, 0] - origin) / rays, ([half, half, height] - origin) / rays
    enter, leave = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def _sphere(origin: np.ndarray, rays: np.ndarray, radius: float, height: float) -> np.ndarray:
    offset = origin - [0, 0, height]
    half_b = (offset * rays).sum(-1)
    root = half_b**2 - (offset**2).sum(-1) + radius**2
    distance = -half_b - np.sqrt(root.clip(0))
    return np.where((root > 0) & (distance > 0), distance, np.inf)


def _side(origin: np.ndarray, rays: np.ndarray, radius: float, low: float, high: float) -> np.ndarray:
    a = (rays[..., :2] ** 2).sum(-1)
    half_b = (origin[..., :2] * rays[..., :2]).sum(-1)
    root = half_b**2 - a * ((origin[..., :2] ** 2).sum(-1) - radius**2)
    distance = (-half_b - np.sqrt(root.clip(0))) / a
    z = origin[..., 2] + distance * rays[..., 2]
    return np.where((root > 0) & (distance > 0) & (low <= z) & (z <= high), distance, np.inf)


def _disc(origin: np.ndarray, rays: np.ndarray, radius: float, height: float) -> np.ndarray:
    distance = (height - origin[..., 2]) / rays[..., 2]
    point = origin[..., :2] + distance[..., None] * rays[..., :2]
    return np.where((distance > 0) & ((point**2).sum(-1) <= radius**2), distance, np.inf)
