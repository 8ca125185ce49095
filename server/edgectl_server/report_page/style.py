"""The style sheet of the page: light and dark, phone, print."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;
--ground:#f5f7f7;--panel:#fff;--line:#dde5e7;--ink:#16211f;--soft:#54636a;--accent:#0a626b;
--good:#0f6b3f;--good-ground:#e2f4ea;--warn:#845003;--warn-ground:#fcf0d9;--bad:#ab2727;
--bad-ground:#fdeaea;--idle:#4d5c63;--idle-ground:#edf1f2;--fill:#1f9ca7;--bad-fill:#d04545;
--track:#e8eeef;--heat:10 98 107;--heat-bad:171 39 39}
@media screen and (prefers-color-scheme:dark){:root{
--ground:#0e1315;--panel:#151b1e;--line:#2b363b;--ink:#e6ecee;--soft:#9badb5;--accent:#63ccd5;
--good:#6fd6a0;--good-ground:#12301f;--warn:#f0bd66;--warn-ground:#36290f;--bad:#ff9d95;
--bad-ground:#3c1a1a;--idle:#a5b5bc;--idle-ground:#222c31;--fill:#2fa6b1;--bad-fill:#d9534f;
--track:#222c31;--heat:47 166 177;--heat-bad:217 83 79}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,
"Helvetica Neue",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1060px;margin:0 auto;padding:32px 20px 56px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 4px}
h3{font-size:14px;margin:0 0 8px}
p{margin:0 0 10px;max-width:74ch;overflow-wrap:anywhere}
a{color:var(--accent)}
.soft{color:var(--soft)}.small{font-size:13px}
.mono{font-family:ui-monospace,"Cascadia Mono","DejaVu Sans Mono",Menlo,monospace;font-size:.9em}
header p{margin:0}
.lead{font-size:17px;margin:18px 0 0;max-width:66ch}
section{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:20px;
margin:16px 0 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;
margin:20px 0 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile dt{color:var(--soft);font-size:13px}
.tile dd{margin:0;font-size:23px;font-weight:600;line-height:1.35;overflow-wrap:anywhere}
.tile dd.note{font-size:13px;font-weight:400;color:var(--soft)}
.plots{display:grid;grid-template-columns:1fr 1fr;gap:8px 20px;margin-top:12px}
.plot{width:100%;height:auto;display:block}
.plot text{font-size:12px;fill:var(--ink)}
.plot .axis{fill:var(--soft)}.plot .name{font-size:12.5px}
.plot .grid{stroke:var(--line);stroke-width:1}.plot .tick{stroke:var(--soft);stroke-width:1}
.plot .across{stroke-width:1.5}
.plot line.budget{stroke:var(--bad);stroke-dasharray:6 4}.plot text.budget{fill:var(--bad)}
.plot line.zero{stroke:var(--soft)}
.plot .leader{stroke:var(--soft);stroke-width:.75}
.plot .number{font-weight:600;paint-order:stroke;stroke:var(--panel);stroke-width:3px;
font-size:12px}
.key{width:16px;height:16px;vertical-align:-3px;margin-right:6px}
.mark{stroke-width:1.75;stroke:var(--soft);fill:var(--panel)}
.mark.diamond{fill:var(--fill);stroke:var(--accent)}
.mark.circle{fill:var(--panel);stroke:var(--accent)}
.mark.square{fill:var(--idle-ground);stroke:var(--ink)}
.mark.cross{stroke:var(--bad);stroke-width:2.5;fill:none}
.arrow{fill:var(--bad)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 18px;padding:0;margin:6px 0 0;
font-size:13px}
.scroll{overflow-x:auto;margin:12px -20px 0;padding:0 20px}
table{border-collapse:collapse;width:100%;font-size:14px}
caption{text-align:left;color:var(--soft);font-size:13px;padding:0 0 6px}
th,td{text-align:left;vertical-align:top;padding:7px 14px 7px 0;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:13px;white-space:nowrap}
tbody th{font-weight:500;overflow-wrap:anywhere;min-width:9em}
td.right,th.right{text-align:right;white-space:nowrap}
td.text{overflow-wrap:anywhere;min-width:11em}
tr.reason td{border-top:0;padding-top:0;color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.pill{display:inline-block;white-space:nowrap;max-width:100%;overflow:hidden;text-overflow:ellipsis;
vertical-align:bottom;border-radius:99px;padding:1px 9px;font-size:13px;
background:var(--idle-ground);color:var(--idle)}
.pill.good{background:var(--good-ground);color:var(--good)}
.pill.warn{background:var(--warn-ground);color:var(--warn)}
.pill.bad{background:var(--bad-ground);color:var(--bad)}
.note{border-left:4px solid var(--warn);background:var(--warn-ground);color:var(--ink);
padding:10px 14px;border-radius:4px;margin:16px 0 0}
.note.bad{border-color:var(--bad);background:var(--bad-ground)}
.note p:last-child{margin:0}
dd.note{border:0;background:none;padding:0;margin:0}
td.graph{min-width:110px;width:32%;vertical-align:middle}
.bar{width:100%;height:12px;display:block;overflow:visible}
.bar .track{fill:var(--track)}.bar .fill{fill:var(--fill)}.bar .fill.bad{fill:var(--bad-fill)}
.bar .limit{stroke:var(--ink);stroke-width:1.2;vector-effect:non-scaling-stroke}
.matrices{display:grid;grid-template-columns:1fr 1fr;gap:8px 28px;margin-top:12px}
.matrices .scroll{margin-top:0}
.matrix{width:auto}
.matrix th,.matrix td{border:1px solid var(--line);padding:4px 7px;text-align:right;
font-size:13px;min-width:2.6em}
.matrix thead th,.matrix tbody th{min-width:0;font-weight:500;color:var(--soft)}
.matrix tbody th{text-align:left;white-space:nowrap;max-width:13em;
overflow:hidden;text-overflow:ellipsis}
.matrix .nothing{color:var(--soft)}
.h1{background:rgb(var(--heat)/6%)}.w1{background:rgb(var(--heat-bad)/6%)}
.h2{background:rgb(var(--heat)/12%)}.w2{background:rgb(var(--heat-bad)/12%)}
.h3{background:rgb(var(--heat)/18%)}.w3{background:rgb(var(--heat-bad)/18%)}
.h4{background:rgb(var(--heat)/24%)}.w4{background:rgb(var(--heat-bad)/24%)}
.h5{background:rgb(var(--heat)/30%)}.w5{background:rgb(var(--heat-bad)/30%)}
.h6{background:rgb(var(--heat)/36%)}.w6{background:rgb(var(--heat-bad)/36%)}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:5px 22px;margin:10px 0 0}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:13px;margin-top:20px}
@media (max-width:720px){
main{padding:18px 12px 36px}section{padding:16px 14px}.scroll{margin:10px -14px 0;padding:0 14px}
.plots,.matrices{grid-template-columns:1fr}h1{font-size:24px}.plot text{font-size:13.5px}
.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:8px}
.tiles{grid-template-columns:1fr 1fr}td.graph{min-width:70px}}
@media (max-width:480px){.plot text,.plot .axis,.plot .name,.plot .number{font-size:17px}}
@media print{
:root{color-scheme:light;--ground:#fff;--track:#e3e8ea}
body{font-size:11pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}
main{max-width:none;padding:0}section{border:0;padding:12px 0 0;margin:0}.tile{padding:6px 10px}
.scroll{overflow:visible;margin:8px 0 0;padding:0}tr,.plot,.tile,.note{break-inside:avoid}
h2{break-after:avoid}table{font-size:9.5pt}}
"""
