"""Bar charts as SVG, for light and dark pages."""

from html import escape

from figures import median, number

WIDTH, LABEL, BAR, ROW = 760, 210, 400, 24
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } .figure { fill: #59636e }
.ours { fill: #2563eb } .limit { fill: #9a6700 } .peer { fill: #8c959f } .spread { stroke: #1f2328; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .figure { fill: #9198a1 } .ours { fill: #4c8dff }
.limit { fill: #d29922 } .peer { fill: #656d76 } .spread { stroke: #e6edf3 } }"""


def bars(panels):
    """`panels`: (title, [(class, label, figures by round)]). Bars show medians, lines the minimum and maximum."""
    parts, y = [], 10
    for title, rows in panels:
        rows = [row for row in rows if row[2]]
        if not rows:
            continue
        parts.append(f'<text class="title" x="10" y="{y + 16}">{escape(title)}</text>')
        y += 26
        scale = BAR / max(max(figures.values()) for _, _, figures in rows)
        for kind, label, figures in rows:
            middle, end = y + ROW / 2, LABEL + max(median(figures) * scale, 1)
            least, most = LABEL + min(figures.values()) * scale, LABEL + max(figures.values()) * scale
            parts += [
                f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>',
                f'<rect class="{kind}" x="{LABEL}" y="{y + 4}" width="{end - LABEL:.1f}" height="{ROW - 8}"/>',
                f'<path class="spread" d="M{least:.1f} {middle}H{most:.1f}"/>',
                f'<text class="figure" x="{max(end, most) + 8:.1f}" y="{middle + 4}">{number(median(figures))}</text>']
            y += ROW
        y += 14
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">'
            f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n")
