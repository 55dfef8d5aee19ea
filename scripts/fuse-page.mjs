// The page docs/reference/fuse-messages.md, made from the table in src/fuse and from what the file
// mount in src/present answers when it is asked.

const ROOT = 1;
const FILE = 2;
/** Requests that the kernel sends for the folder. */
const FOLDER = new Set(
  ['LOOKUP', 'SYMLINK', 'MKNOD', 'MKDIR', 'UNLINK', 'RMDIR', 'RENAME', 'RENAME2', 'LINK'].concat([
    'CREATE',
    'TMPFILE',
    'OPENDIR',
    'READDIR',
    'READDIRPLUS',
    'RELEASEDIR',
    'FSYNCDIR',
  ]),
);

/** A file whose methods note their names and answer nothing. */
function makeFile(calls) {
  const note = (name) => () => {
    calls.push(name);
    return 0;
  };
  return {
    ...{ name: 'disk', mode: 0o600, size: 4096 },
    ...{ payload: () => new Uint8Array(0), payloadAddress: () => 0 },
    ...{ open: note('open'), read: note('read'), write: note('write') },
    ...{ sync: note('sync'), allocate: note('allocate'), interrupt: note('interrupt') },
  };
}

/** Sends one request to a mount that nobody has mounted: what comes of it, in words. */
function probe(name, spec, { FileMount, FUSE_MAJOR, errnoName }) {
  const calls = [];
  const replies = [];
  const body = Buffer.concat([
    spec.request.encode(name === 'INIT' ? { major: FUSE_MAJOR } : {}),
    Buffer.from(spec.rest === 0 ? '' : 'disk\0name\0'),
  ]);
  let isSent = false;
  const channel = {
    ...{ opcode: spec.opcode, nodeid: FOLDER.has(name) ? ROOT : FILE, ring: null },
    ...{ uniqueLow: 2, uniqueHigh: 0, u32: () => 0, u64: () => 0, body: () => body },
    receive() {
      if (isSent) return 0;
      isSent = true;
      return 40 + body.length;
    },
    replyStatus: (_low, _high, errno) => replies.push(errno === 0 ? 'done' : errnoName(errno)),
    replyBytes: () => replies.push('answered'),
  };
  new FileMount(channel, makeFile(calls), 4096).poll();
  const parts = calls.map((call) => `handed to the file: \`${call}\``);
  for (const reply of replies) {
    parts.push(/^[a-z]/.test(reply) ? reply : `refused: ${reply}`);
  }
  return parts.length === 0 ? 'nothing' : parts.join(', then ');
}

function fieldsText({ offsets, size }, attributes) {
  const names = Object.keys(offsets);
  const from = names.indexOf(attributes[0]);
  const parts = names.map((name, i) => {
    const end = i + 1 < names.length ? offsets[names[i + 1]] : size;
    return `${name} ${end - offsets[name]}`;
  });
  if (from >= 0) parts.splice(from, attributes.length, '*attributes* 88');
  return parts.join(', ');
}

const REST = { 0: '', 1: 'a name', 2: 'two names', bytes: 'bytes' };

/** Renders the page from what src/fuse and src/present/file-mount.ts export. */
export function renderFusePage(sources) {
  const { FUSE_MESSAGES, FUSE_MAJOR, FUSE_MINOR } = sources;
  const attributes = Object.keys(FUSE_MESSAGES.GETATTR.reply.offsets).slice(3);
  const rows = Object.entries(FUSE_MESSAGES).map(([name, spec]) => {
    const reply = spec.isOneWay ? 'no reply' : fieldsText(spec.reply, attributes);
    const cells = [
      ...[spec.opcode, `\`${name}\``, spec.summary, fieldsText(spec.request, attributes)],
      ...[REST[spec.rest], reply, probe(name, spec, sources)],
    ];
    return `| ${cells.join(' | ')} |\n`;
  });
  return `<!-- Made by \`npm run docs:messages\` from src/fuse/messages.ts. Do not edit. -->
# FUSE requests

Requests of the kernel to a FUSE file system, version ${FUSE_MAJOR}.${FUSE_MINOR}. Names are
those of \`include/uapi/linux/fuse.h\` without \`FUSE_\`. The number behind a field is its size in
bytes; all numbers are little-endian. The fields follow a header of 40 bytes in a request and one of
16 bytes in a reply; names end with a zero byte.

The last column is what the mount of a single file does, as in \`vlo up\`. *Handed to the file*: the
device behind it decides, and the reply comes when it has answered. After ENOSYS the kernel does
what it can by itself and sends that request no more.

| Number | Request | What it does | Fields | Then | Fields of the reply | Here |
|---|---|---|---|---|---|---|
${rows.join('')}
*attributes*: ${fieldsText(FUSE_MESSAGES.GETATTR.reply, []).split(', ').slice(3).join(', ')}.
`;
}
