"""Draws what benches/run.py measured: bars of statements a second, a panel for each protocol, as SVG."""

from xml.sax.saxutils import escape

# contender: colour, label. Told apart in grey, too.
BARS = {
    "direct": ("#9aa5b1", "PostgreSQL directly"),
    "pgbouncer": ("#3b6ea5", "PgBouncer (looks at nothing)"),
    "bulkhead": ("#e07b39", "Bulkhead (every statement checked and rewritten)"),
    "pgbouncer-rls": ("#5d4a7a", "PgBouncer and row security (set_config in a transaction)"),
}
BAR, GAP, GROUP_GAP, PANEL_GAP = 15, 2, 14, 34
LEFT, TOP, HEIGHT, BOTTOM = 50, 74, 190, 44


def chart(summary):
    """`summary`: as in results.json."""
    protocols = list(dict.fromkeys(cell["protocol"] for cell in summary))
    most = max(of["tps"] for cell in summary for name, of in cell["contenders"].items() if name in BARS)
    step = next(s for s in (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 10**9) if most / s <= 6)
    top = step * -(-most // step)
    parts, x = [], LEFT
    for protocol in protocols:
        start = x
        for cell in (c for c in summary if c["protocol"] == protocol):
            first = x
            for name in (n for n in BARS if n in cell["contenders"]):
                of = cell["contenders"][name]
                height = HEIGHT * of["tps"] / top
                y = TOP + HEIGHT - height
                parts.append(f'<rect x="{x}" y="{y:.1f}" width="{BAR}" height="{height:.1f}" fill="{BARS[name][0]}">'
                             f'<title>{escape(BARS[name][1])}: {of["tps"]:,.0f}/s ({of["tps_min"]:,.0f} to {of["tps_max"]:,.0f})</title></rect>')
                parts.append(text(x + BAR / 2, y - 3, f"{of['tps'] / 1000:.0f}", 8, "middle"))
                x += BAR + GAP
            parts.append(text((first + x - GAP) / 2, TOP + HEIGHT + 14, f"{cell['clients']}", 10, "middle"))
            x += GROUP_GAP
        x -= GROUP_GAP
        parts.append(text((start + x - GAP) / 2, TOP + HEIGHT + 32, protocol, 11, "middle"))
        x += PANEL_GAP
    parts.append(text(LEFT - 10, TOP + HEIGHT + 14, "clients", 9, "end"))
    width = max(x - PANEL_GAP + 16, 660)
    grid = []
    for value in range(0, int(top) + 1, step):
        y = TOP + HEIGHT - HEIGHT * value / top
        grid.append(f'<line x1="{LEFT - 6}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d7dce1" stroke-width="1"/>')
        grid.append(text(LEFT - 10, y + 3, f"{value:,}", 9, "end"))
    legend = []
    for i, (name, (colour, label)) in enumerate((n, b) for n, b in BARS.items() if any(n in c["contenders"] for c in summary)):
        at_x, at_y = LEFT + 290 * (i % 2), 34 + 16 * (i // 2)
        legend.append(f'<rect x="{at_x}" y="{at_y - 8}" width="10" height="10" fill="{colour}"/>' + text(at_x + 15, at_y, label, 10, "start"))
    height = TOP + HEIGHT + BOTTOM
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" role="img" aria-label="Statements a second">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(LEFT, 16, "Selects by primary key, statements a second (thousands above the bars)", 12, "start"), *legend, *grid, *parts, "</svg>"]) + "\n"


def text(x, y, what, size, anchor):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#24292f">{escape(what)}</text>'
