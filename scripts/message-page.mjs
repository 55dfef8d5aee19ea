// The page docs/reference/vhost-user-messages.md, made from the tables in src/vhost-user.

const FAILURES = {
  nonZero: 'a number that is not 0',
  noFdBit: 'a number with bits 0-7 not 0, and bit 8',
  empty: 'a header alone',
  zeroed: 'all fields 0, no descriptor',
  minusOne: 'the request with -1 at its end',
  close: 'none: the connection is closed',
};

function fdsText({ min, max, by }) {
  if (by === 'regions') return 'one for each region';
  if (by === 'noFdBit') return '1, or 0 with bit 8';
  return min === max ? `${min}` : `${min} or ${max}`;
}

function gateText(gate) {
  if (gate === null) return '';
  const name = gate.protocolFeature ?? `F_${gate.virtioFeature}`;
  return gate.offered ? `${name} (offered)` : name;
}

function answerText(spec) {
  if (spec.answer === 'ack') return 'acknowledgement';
  const fds = spec.replyFds.max === 0 ? '' : ` + fd (${fdsText(spec.replyFds)})`;
  const reply = `${spec.replyName === 'none' ? 'header' : spec.replyName}${fds}`;
  return spec.answer === 'replyIfLogShmfd'
    ? `${reply} with LOG_SHMFD, else acknowledgement`
    : reply;
}

function messageTable(messages) {
  const rows = Object.values(messages).map((spec) => {
    const cells = [
      spec.id,
      `\`${spec.name}\``,
      spec.doc,
      gateText(spec.gate),
      spec.requestName === 'none' ? '' : spec.requestName,
      fdsText(spec.requestFds),
      answerText(spec),
      FAILURES[spec.failure],
      spec.implemented ? 'both ends' : 'decoded, refused',
    ];
    return `| ${cells.map((cell) => `${cell}`.replaceAll('|', '\\|')).join(' | ')} |\n`;
  });
  return `| Id | Message | What it does | Gate | Payload | Descriptors | Answer | When it fails | Here |
|---|---|---|---|---|---|---|---|---|
${rows.join('')}`;
}

function fieldText([name, type]) {
  if (typeof type === 'string') return `${name} ${type === 'word' ? 'u64' : type}`;
  if ('pad' in type) return `${type.pad} bytes of padding`;
  if ('bytes' in type) return `${name}, ${type.bytes} bytes`;
  if ('numbers' in type) return `${name}, ${type.numbers} x u64`;
  if ('sized' in type) return `${name}, ${type.sized} bytes or more, at most ${type.max}`;
  if ('raw' in type) return `${name}, at most ${type.raw} bytes`;
  const fields = Object.entries(type.list).map(fieldText).join(', ');
  return `count u32, 4 bytes of padding, ${name}: up to ${type.max} of (${fields})`;
}

function layoutTable(layouts, describeSizes) {
  const rows = Object.entries(layouts).map(([name, layout]) => {
    const fields = Object.entries(layout.fields).map(fieldText).join(', ');
    return `| ${name} | ${describeSizes(layout)} | ${fields} |\n`;
  });
  return `| Payload | Bytes | Fields |
|---|---|---|
${rows.join('')}`;
}

/** Renders the page from what src/vhost-user/messages*.ts export. */
export function renderMessagePage({ frontEnd, backEnd, layouts, describeSizes }) {
  return `<!-- Made by \`npm run docs:messages\` from src/vhost-user/messages.ts. Do not edit. -->
# vhost-user messages

Names are the specification's without \`VHOST_USER_\`. The gate is the protocol feature (or, with
\`F_\`, the virtio feature) that has to be negotiated before the message is sent; *offered* means that
the back end's offer is enough. An *acknowledgement* is a u64, 0 for success, and is sent only if
REPLY_ACK is negotiated and the request has the flag NEED_REPLY.

What this package does with a message is in the last column. *Decoded, refused*: its feature is
never offered; if the message comes nevertheless, it is shown in traces, its descriptors are closed,
and it is answered as the column before says: an acknowledgement only if one was asked for.

## From the front end

${messageTable(frontEnd)}
## From the back end

On the socket of \`SET_BACKEND_REQ_FD\`.

${messageTable(backEnd)}
## Payloads

All numbers are little-endian. Padding is written as zero and not looked at. More than one size:
peers send both; of a shorter one the missing fields are zero.

${layoutTable(layouts, describeSizes)}`;
}
