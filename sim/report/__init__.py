"""Reports: text, one HTML page and a Chrome trace, each a pure function of the Result.

`terminal.render_text` prints a run, `page.render_html` draws the page, `trace.chrome_trace` writes what
Perfetto opens, and `load.load_result` reads a result.json back, so that an answer is redrawn without
simulating again. Nothing here computes physics: a number that is not in the Result is not in a report.
"""
