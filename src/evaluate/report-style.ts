/** How the report looks: one column on a phone, several on a screen, light or dark as asked for. */
export const STYLE = `
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d5dbe1;
  --panel: #f6f8fa; --t0: #2563a8; --t1: #12806a; --t2: #b3590a; --t3: #7a828b; --good: #17702f;
  --bad: #b02a2a; }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --ink: #e6eaee; --soft: #9aa5b1;
  --line: #323a43; --panel: #1a2027; --t0: #6aa9e9; --t1: #4cc2a5; --t2: #f0a35a; --t3: #8d97a2;
  --good: #6fd08c; --bad: #ff8f8a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .75rem;
  border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
h4 { font-size: .95rem; margin: 1.5rem 0 .5rem; } .panel h4 { margin-top: 0; }
p { margin: .5rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.note { border-left: 4px solid var(--t2); padding: .25rem .75rem; background: var(--panel); }
nav ul, .legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
a { color: var(--t0); }
.panels { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .75rem; }
svg { display: block; width: 100%; height: auto; max-width: 30rem; overflow: visible; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg text.small { font-size: 10.5px; fill: var(--soft); }
svg text.end { text-anchor: end; } svg text.middle { text-anchor: middle; }
.t0 { fill: var(--t0); background: var(--t0); } .t1 { fill: var(--t1); background: var(--t1); }
.t2 { fill: var(--t2); background: var(--t2); } .t3 { fill: var(--t3); background: var(--t3); }
.line-t0 { stroke: var(--t0); } .line-t1 { stroke: var(--t1); } .line-t2 { stroke: var(--t2); }
.line-t3 { stroke: var(--t3); }
svg circle { stroke-width: 1.5; } .half { fill-opacity: .45; } .hollow { fill: var(--panel); }
svg path { fill: none; } .range { stroke: var(--ink); stroke-width: 1.2; }
.grid { stroke: var(--line); stroke-width: 1; }
.cut { stroke: var(--panel); stroke-width: 3; }
.reference { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem;
  border-radius: 2px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td small { display: block; color: var(--soft); white-space: nowrap; }
td.words { text-align: left; overflow-wrap: anywhere; min-width: 10rem; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
pre { white-space: pre-wrap; background: var(--panel); border: 1px solid var(--line);
  padding: .6rem; font-size: .78rem; }
summary { cursor: pointer; padding: .3rem 0; }
`;
