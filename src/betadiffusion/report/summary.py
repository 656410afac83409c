"""The main numbers of a report as a short table, for the terminal and for the head of the page."""

from typing import Any

from betadiffusion.report.distances import sampler_row
from betadiffusion.report.generate import POSTERIOR, Sampler

Rows = list[tuple[str, str]]


def headline(numbers: dict[str, Any]) -> str:
    """The main numbers of `write_report` as lines of plain text in two columns."""
    rows = [*main_numbers(numbers), ("report", numbers["path"])]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def main_numbers(numbers: dict[str, Any]) -> Rows:
    """Pairs of what was measured and what came out."""
    frechet, terminal = numbers["frechet"], numbers["terminal"]
    name, zero = frechet["name"], frechet["levels"][0]["vae"]
    falls = "falling at every level" if numbers["rate_falls"] else "NOT falling at every level"
    rows = [
        ("rate at level 1", f"{number(terminal['rate'])} nats, {falls}"),
        ("VAE alone at level 0", f"{name} {number(zero)} (real images: {number(frechet['floor'])})"),
        *_walk_back(frechet),
        *_samples(numbers, zero),
    ]
    if numbers["factors"]:
        best, fixed = numbers["factors"]["best"], numbers["factors"]["fixed"]
        rows.append(("MIG, best level", f"{number(best['mig'])} at level {best['level']:g}"))
        rows.append((f"MIG, fixed level {fixed['level']:g}", number(fixed["mig"])))
    minutes = numbers["minutes"]
    rows.append(("minutes", " + ".join(f"{stage} {m:.1f}" for stage, m in minutes.items())))
    rows.append(("  together, without the latent cache", f"{sum(minutes.values()):.1f}"))
    return rows


def _walk_back(frechet: dict[str, Any]) -> Rows:
    row = frechet["walk_back"]
    if row is None:
        return [("walked back to level 0", "no level of the grid has 3 times the distance of level 0")]
    factor = f"divided by {number(row['divided_by'])}"
    return [
        (f"VAE alone at level {row['level']:g}", f"{number(row['vae'])} ({times(row['times_level_zero'])} level 0)"),
        ("  the same codes, walked back to 0", f"{number(row['walked'])} ({factor})"),
    ]


def _samples(numbers: dict[str, Any], zero: float) -> Rows:
    default = own_sampler(numbers)
    shown = [Sampler("heun", 25), default, POSTERIOR, Sampler("algorithm2", 20), Sampler("algorithm2", 200)]
    against = sampler_row(numbers["samplers"], POSTERIOR)
    rows = []
    for sampler in dict.fromkeys(shown):
        row = sampler_row(numbers["samplers"], sampler)
        if row is None:
            continue
        distance = row["distance"]
        value = f"{number(distance)} ({times(distance / zero)} level 0)"
        if sampler == default and against is not None:
            value += f", {times(distance / against['distance'])} eta=1 with 200"
        mark = " (default)" if sampler == default else ""
        rows.append((f"samples, {sampler.label}{mark}, {sampler.evaluations} evaluations", value))
    return rows


def own_sampler(numbers: dict[str, Any]) -> Sampler:
    """The pipeline's own method with 20 evaluations, one a step."""
    return Sampler(numbers["frechet"]["walk"]["method"], 20)


def number(value: float | None) -> str:
    """Three significant digits, without an exponent where that is short; a dash for a value that is not finite."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def times(ratio: float) -> str:
    """A ratio, as in "2.1 x"."""
    return f"{ratio:.2f} ×"
