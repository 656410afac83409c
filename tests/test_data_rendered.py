"""The rendered sets: their factors, their pictures, and that one determines the other."""

import numpy as np
import pytest

from betadiffusion.data import DataError, FactorSet, load
from betadiffusion.data.shapes import AMBIENT, LIGHT, SHAPES, _dimensions, _hit, _normals, _shade


@pytest.fixture(scope="module")
def shapes():
    return load("shapes", 16)


@pytest.fixture(scope="module")
def dsprites():
    return load("dsprites", 32)


def test_sizes_and_names(shapes, dsprites):
    assert isinstance(shapes, FactorSet)
    assert isinstance(dsprites, FactorSet)
    assert len(shapes) == 480_000
    assert shapes.image_shape == (3, 16, 16)
    assert shapes.factor_sizes == (10, 10, 10, 8, 4, 15)
    assert len(dsprites) == 3 * 6 * 40 * 32 * 32
    assert dsprites.image_shape == (1, 32, 32)
    assert load("shapes").image_shape == (3, 64, 64)
    assert load("dsprites", channels=3).image_shape == (3, 64, 64)


@pytest.mark.parametrize("name", ["shapes", "dsprites"])
def test_index_inverts_factors(name):
    data = load(name, 8)
    indices = np.random.default_rng(0).integers(0, len(data), 1000)
    factors = data.factors(indices)
    assert factors.dtype == np.int64
    np.testing.assert_array_equal(data.index(factors), indices)
    np.testing.assert_array_equal(data.factors(np.array([0, len(data) - 1])), [[0] * factors.shape[1], _last(data)])
    with pytest.raises(DataError, match="outside"):
        data.factors(np.array([len(data)]))
    with pytest.raises(DataError, match="outside"):
        data.index(np.array(data.factor_sizes)[None])


def _last(data):
    return [size - 1 for size in data.factor_sizes]


@pytest.mark.parametrize("name", ["shapes", "dsprites"])
def test_images_do_not_depend_on_batch_or_order(name):
    data, again = load(name, 16), load(name, 16)
    indices = np.random.default_rng(1).integers(0, len(data), 20)
    batch = data.images(indices)
    assert batch.dtype == np.uint8
    assert batch.shape == (20, *data.image_shape)
    one_by_one = np.concatenate([again.images(indices[i : i + 1]) for i in reversed(range(20))])[::-1]
    np.testing.assert_array_equal(batch, one_by_one)
    assert data.images(indices[:0]).shape == (0, *data.image_shape)


def test_shapes_with_distinct_factors_are_distinct(shapes):
    geometries = shapes.images(np.arange(480)).reshape(480, -1)
    assert len(np.unique(geometries, axis=0)) == 480
    colours = shapes.images(np.arange(1000) * 480).reshape(1000, -1)
    assert len(np.unique(colours, axis=0)) == 1000
    mixed = np.random.default_rng(0).choice(len(shapes), 5000, replace=False)
    assert len(np.unique(shapes.images(mixed).reshape(5000, -1), axis=0)) == 5000


def test_a_hue_changes_only_its_own_material(shapes):
    base = np.array([2, 5, 8, 4, 0, 3])
    shading = _shade(16, SHAPES[0], 1.0, 0.2)
    assert shading.min() >= 0
    assert shading.max() <= 1
    one = np.eye(6, dtype=int)
    images = shapes.images(shapes.index(np.array([base, base + one[0], base + one[2]])))
    floor_changed = (images[0] != images[1]).any(0)
    object_changed = (images[0] != images[2]).any(0)
    assert floor_changed[-1].all()  # the lowest row is floor
    assert not floor_changed[0].any()  # the highest is wall
    assert object_changed[8, 8]
    assert not object_changed[:, [0, -1]].any()


def test_scale_grows_the_object(shapes):
    for shape in range(4):
        grid = np.array([[0, 3, 6, scale, shape, 7] for scale in range(8)])
        other = grid + np.eye(6, dtype=int)[2]
        changed = shapes.images(shapes.index(grid)) != shapes.images(shapes.index(other))
        area = changed.any(1).sum((1, 2))
        assert (np.diff(area) >= 0).all()
        assert area[-1] > 1.6 * area[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_meet_the_surface_at_right_angles_to_its_normal(shape):
    """Hit points lie on the surface, rays enter against the normal, and normals are unit vectors."""
    generator = np.random.default_rng(0)
    origin = np.array([2.0, -3.0, 2.5])
    aim = generator.normal([0, 0, 0.5], 0.5, (2000, 3)) - origin
    rays = aim / np.linalg.norm(aim, axis=1, keepdims=True)
    distance = _hit(shape, 1.1, origin, rays)
    hit = np.isfinite(distance)
    assert 200 < hit.sum() < 2000
    points = origin + distance[hit, None] * rays[hit]
    normals = _normals(shape, 1.1, points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    assert ((normals * rays[hit]).sum(1) < 1e-6).all()
    radius, height = _dimensions(shape, 1.1)
    around = np.hypot(points[:, 0], points[:, 1])
    if shape == "cube":
        outside = np.maximum(np.abs(points[:, :2]).max(1) - radius, np.abs(points[:, 2] - height / 2) - height / 2)
    elif shape == "cylinder":
        outside = np.maximum(around - radius, np.abs(points[:, 2] - height / 2) - height / 2)
    else:
        outside = np.hypot(around, points[:, 2] - points[:, 2].clip(radius, height - radius)) - radius
    np.testing.assert_allclose(outside, 0, atol=1e-9)


def test_the_object_throws_a_shadow_on_the_floor():
    floor, wall, thing = _shade(32, "sphere", 1.0, 0.0)
    only_floor = floor[(wall == 0) & (thing == 0)]
    lit = AMBIENT + (1 - AMBIENT) * LIGHT[2]
    assert only_floor.max() == pytest.approx(lit)
    assert 5 < np.isclose(only_floor, AMBIENT).sum() < 60


@pytest.mark.parametrize("size", [8, 32, 65])
def test_sprites_stay_inside_the_frame(size):
    data = load("dsprites", size)
    corners = [(s, 5, o, x, y) for s in range(3) for o in range(40) for x in (0, 31) for y in (0, 31)]
    images = data.images(data.index(np.array(corners)))[:, 0]
    inner = load("dsprites", size).images(data.index(np.array([(s, 5, o, 15, 15) for s, _, o, _, _ in corners])))[:, 0]
    # nothing is cut off: the covered area is the same at the corners as in the middle, up to antialiasing
    area, full = images.sum((1, 2)) / 255, inner.sum((1, 2)) / 255
    np.testing.assert_allclose(area, full, rtol=0.08 if size == 8 else 0.02)


def test_sprite_areas_follow_their_formulas():
    data = load("dsprites", 64)
    grid = np.array([(shape, scale, 3, 10, 20) for shape in range(3) for scale in range(6)])
    area = data.images(data.index(grid)).sum((1, 2, 3)).reshape(3, 6) / 255 / 64**2
    radius = 0.1875 * np.linspace(0.5, 1, 6)
    np.testing.assert_allclose(area[0], 2 * radius**2, rtol=0.02)
    np.testing.assert_allclose(area[1], np.pi / 2 * radius**2, rtol=0.02)
    # two half discs of radius sqrt(2)/4 on a unit-diagonal square of area 1/2, in a circle of radius 0.6306
    np.testing.assert_allclose(area[2], (0.5 + np.pi / 8) * (radius / 0.6306) ** 2, rtol=0.02)


def test_sprite_position_and_symmetry(dsprites):
    where = np.array([[shape, 5, 0, x, y] for shape in range(2) for x, y in [(0, 0), (31, 0), (7, 22)]])
    images = dsprites.images(dsprites.index(where))[:, 0].astype(float)
    pixels = np.arange(32) + 0.5
    mass = images.sum((1, 2))
    positions = 32 * np.linspace(0.25, 0.75, 32)
    np.testing.assert_allclose((images.sum(1) @ pixels) / mass, positions[where[:, 3]], atol=0.1)
    np.testing.assert_allclose((images.sum(2) @ pixels) / mass, positions[where[:, 4]], atol=0.1)
    for shape, same_after in [(0, 10), (1, 20)]:
        a, b = dsprites.images(dsprites.index(np.array([[shape, 5, 3, 9, 9], [shape, 5, 3 + same_after, 9, 9]])))
        np.testing.assert_allclose(a.astype(int), b.astype(int), atol=1)
    hearts = dsprites.images(dsprites.index(np.array([[2, 5, o, 15, 15] for o in range(40)]))).reshape(40, -1)
    assert len(np.unique(hearts, axis=0)) == 40


def test_three_channels_are_equal_ones():
    grey, colour = load("dsprites", 16), load("dsprites", 16, channels=3)
    indices = np.arange(0, len(grey), 100_003)
    np.testing.assert_array_equal(colour.images(indices), np.repeat(grey.images(indices), 3, axis=1))
    with pytest.raises(DataError, match="3 channels"):
        load("shapes", channels=1)
