// The page docs/reference/errors.md, made from ERROR_TABLE.

/** @param {Record<string, { exitStatus: number, summary: string }>} table */
export function renderErrorPage(table) {
  const rows = Object.entries(table)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([code, { exitStatus, summary }]) => {
      const cell = summary.replaceAll('|', '\\|');
      return `| <a id="${code}"></a>\`${code}\` | ${exitStatus} | ${cell} |\n`;
    });
  return `<!-- Made by \`npm run docs:errors\` from src/errors.ts. Do not edit. -->
# Errors

Every error that this package reports on purpose has a code. In TypeScript it is a \`VloError\` with
the code in \`error.code\`; \`vlo\` prints the code with the message on standard error and ends with
the status in the second column: 1 when something failed, 2 when the command line or a file of
configuration is wrong. Codes are stable; the words of a message are not.

| Code | Exit status | What happened, and what to do |
|---|---|---|
${rows.join('')}
A message that begins with \`virtio-loopback bug:\` has no code: it is a mistake of this package, to be
reported as an issue.
`;
}
