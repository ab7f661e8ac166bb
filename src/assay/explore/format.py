"""Numbers for people."""


def number(value: float) -> str:
    """Signed, three digits, with a real minus: +0.0123, −1.2e−05, 0."""
    return "0" if value == 0 else f"{value:+.3g}".replace("-", "−")


def unsigned(value: float) -> str:
    """Three digits: 0.62."""
    return f"{value:.3g}".replace("-", "−")


def seconds(value: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(value: int) -> str:
    """Bytes as KiB, MiB or GiB."""
    amount, unit = value / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"


def percent(share: float) -> str:
    """At most one decimal; 100% only for all of it."""
    if share < 0.1:
        return f"{100 * share:.2g}%"
    return "100%" if share >= 1 else f"{min(100 * share, 99.9):.1f}%".replace(".0%", "%")


def counted(count: int, noun: str) -> str:
    """1 query, 2 queries, 3,200 examples."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"


def decimal(value: float) -> str:
    """At most one decimal: 3, 0.4, 12.5; <0.1 for what would read as none."""
    if 0 < value < 0.05:
        return "<0.1"
    return f"{value:,.1f}".removesuffix(".0")


def percent_of(part: float, whole: float) -> str:
    """A signed share of a whole, as a whole percentage; a part may be larger than the whole, or against it."""
    return "–" if whole == 0 else f"{100 * part / whole:.0f}%".replace("-", "−")
