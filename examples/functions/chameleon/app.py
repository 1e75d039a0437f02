"""Renders an HTML table from a template (FunctionBench's chameleon)."""

import zlib

from chameleon import PageTemplate

TEMPLATE = PageTemplate("""
<table xmlns="http://www.w3.org/1999/xhtml" xmlns:tal="http://xml.zope.org/namespaces/tal">
<tr tal:repeat="row options['table']">
<td tal:repeat="cell row.values()">
<span class="column-${cell}" tal:content="python: cell"/>
</td>
</tr>
</table>
""")


def handler(event, context):
    rows, columns, shift = int(event["rows"]), int(event["columns"]), int(event["shift"])
    table = [{str(column): column + shift for column in range(columns)} for _ in range(rows)]
    page = TEMPLATE.render(options={"table": table})
    if page.count("<td>") != rows * columns or page.count(f">{shift}</span>") != rows:
        raise AssertionError("cells are missing from the page")
    return {"checksum": f"{zlib.crc32(page.encode()):08x}", "bytes": len(page)}
