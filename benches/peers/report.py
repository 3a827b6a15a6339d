"""The results as text: for a terminal, and for a README."""

from __future__ import annotations

from benches._harness import Row, table
from benches.peers.runner import Result

_TITLES = {
    "enqueue": "enqueue/s",
    "bulk": "bulk enqueue/s",
    "process": "process/s",
    "p50": "idle p50 ms",
    "p99": "idle p99 ms",
}
_LATENCIES = ("p50", "p99")


def plain(results: list[Result]) -> str:
    rows = [
        Row(
            f"{result.peer.name} {result.peer.version}",
            {title: result.median(column) for column, title in _TITLES.items()},
        )
        for result in results
        if result.failure is None
    ]
    durabilities = [
        f"{result.peer.name}: {result.durability}" for result in results if result.durability
    ]
    return "\n".join([table(rows), "", *durabilities, *_failures(results), *_ratios(results)])


def markdown(where: list[str], concurrency: int, results: list[Result]) -> str:
    head = ["peer", "durability, as read back", *_TITLES.values()]
    lines = [*where, "", _line(head), _line(["---"] * 2 + ["---:"] * len(_TITLES))]
    for result in results:
        if result.failure is not None:
            continue
        numbers = [_number(column, result.median(column)) for column in _TITLES]
        name = f"{result.peer.name} {result.peer.version}"
        lines.append(_line([name, result.durability, *numbers]))
    settings = [
        f"- {result.peer.name}: {result.peer.configured(concurrency)}" for result in results
    ]
    ratios = _ratios(results)
    failures = _failures(results)
    return "\n".join(
        [
            *lines,
            *(["", *(f"- {line}" for line in failures)] if failures else []),
            *(["", *(f"- {line}" for line in ratios)] if ratios else []),
            "",
            "Settings:",
            "",
            *settings,
        ]
    )


def _failures(results: list[Result]) -> list[str]:
    return [
        f"{result.peer.name} {result.peer.version}: not measured: {result.failure}"
        for result in results
        if result.failure is not None
    ]


def _ratios(results: list[Result]) -> list[str]:
    """taquba against the best of the others, column by column."""
    measured = {result.peer.name: result for result in results if result.failure is None}
    ours = measured.pop("taquba", None)
    lines: list[str] = []
    for column, title in _TITLES.items():
        others = {
            name: value
            for name, result in measured.items()
            if (value := result.median(column)) is not None
        }
        if ours is None or not others or (own := ours.median(column)) is None:
            continue
        best = (min if column in _LATENCIES else max)(others, key=others.__getitem__)
        ratio = own / others[best]
        lines.append(f"{title}: taquba's is {ratio:.2g} times the best other's ({best})")
    return lines


def _number(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if column in _LATENCIES else f"{value:,.0f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
