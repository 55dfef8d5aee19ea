/** Requests of each type of device, whose used lengths are looked at: see third-survey.mjs. */

import { Probe } from './third-survey.mjs';

const FUSE_LOOKUP = 1;
const FUSE_OPEN = 14;
const FUSE_READ = 15;
const FUSE_INIT = 26;
const FUSE_IN_BYTES = 40;
const FUSE_OUT_BYTES = 16;
const ROOT = 1n;
const FUSE_VERSION = [7, 38];
const INIT_BYTES = 64;
const REQUEST_QUEUE = 1;
const READ_BYTES = 4096;

function fuseRequest(opcode, node, payload) {
  const bytes = Buffer.alloc(FUSE_IN_BYTES + payload.length);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt32LE(opcode, 4);
  bytes.writeBigUInt64LE(BigInt(opcode), 8);
  bytes.writeBigUInt64LE(node, 16);
  payload.copy(bytes, FUSE_IN_BYTES);
  return bytes;
}

/** virtiofsd: a reply with data, one with an error, and a read of less than was asked for. */
export async function probeFs(path, file) {
  const probe = await Probe.open(path, 2);
  const ask = async (what, opcode, node, payload, room) => {
    const writable = [FUSE_OUT_BYTES, room];
    const readable = fuseRequest(opcode, node, payload);
    const bytes = await probe.ask(REQUEST_QUEUE, what, { readable, writable });
    return { error: bytes.readInt32LE(4), payload: bytes.subarray(FUSE_OUT_BYTES) };
  };
  const init = Buffer.alloc(INIT_BYTES);
  for (const [index, value] of FUSE_VERSION.entries()) init.writeUInt32LE(value, 4 * index);
  await ask('INIT', FUSE_INIT, 0n, init, 1024);
  await ask('LOOKUP that fails', FUSE_LOOKUP, ROOT, Buffer.from('no such file\0'), 128);
  const found = await ask('LOOKUP', FUSE_LOOKUP, ROOT, Buffer.from(`${file}\0`), 128);
  if (found.error !== 0) throw new Error(`LOOKUP of ${file}: ${found.error}`);
  const node = found.payload.readBigUInt64LE(0);
  const opened = await ask('OPEN', FUSE_OPEN, node, Buffer.alloc(8), 16);
  const read = Buffer.alloc(40);
  opened.payload.copy(read, 0, 0, 8);
  read.writeUInt32LE(READ_BYTES, 16);
  await ask('READ of a short file', FUSE_READ, node, read, READ_BYTES);
  await probe.close();
  return probe.lengths;
}

const NET_HEADER_BYTES = 12;
const FRAME_BYTES = 2048;
const MAC = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const BROADCAST = new Array(6).fill(0xff);
const ARP = [0x08, 0x06];
const ARP_REQUEST = [0, 1, 8, 0, 6, 4, 0, 1];

/** passt: an ARP request goes out, its answer comes in. */
export async function probeNet(path, { address, gateway }) {
  const probe = await Probe.open(path, 2);
  const received = probe.place(0, { writable: [NET_HEADER_BYTES + FRAME_BYTES] });
  const arp = [...ARP_REQUEST, ...MAC, ...address, ...new Array(6).fill(0), ...gateway];
  const frame = [...BROADCAST, ...MAC, ...ARP, ...arp];
  const readable = Uint8Array.from([...new Array(NET_HEADER_BYTES).fill(0), ...frame]);
  await probe.ask(1, 'frame sent', { readable });
  await probe.finish(0, received, 'frame received');
  await probe.close();
  return probe.lengths;
}

const VSOCK_HEADER_BYTES = 44;
const VSOCK_REQUEST = 1;
const VSOCK_STREAM = 1;
const HOST_CID = 2n;
const OWN_PORT = 1024;

/** vhost-device-vsock: a request for a port that listens, and the answer to it. */
export async function probeVsock(path, { cid, port }) {
  const probe = await Probe.open(path, 2);
  const received = probe.place(0, { writable: [VSOCK_HEADER_BYTES + READ_BYTES] });
  const readable = Buffer.alloc(VSOCK_HEADER_BYTES);
  readable.writeBigUInt64LE(BigInt(cid), 0);
  readable.writeBigUInt64LE(HOST_CID, 8);
  readable.writeUInt32LE(OWN_PORT, 16);
  readable.writeUInt32LE(port, 20);
  readable.writeUInt16LE(VSOCK_STREAM, 28);
  readable.writeUInt16LE(VSOCK_REQUEST, 30);
  readable.writeUInt32LE(READ_BYTES, 36);
  await probe.ask(1, 'packet sent', { readable });
  await probe.finish(0, received, 'packet received');
  await probe.close();
  return probe.lengths;
}

const BLK_HEADER_BYTES = 16;
const BLK_READ = 0;
const BLK_WRITE = 1;
const BLK_BYTES = 4096;

/**
 * qemu-storage-daemon: a write, a read, a read that fails.
 * @param {{ failed: number }} sectors `failed`: one that cannot be read
 */
export async function probeBlk(path, { failed }) {
  const probe = await Probe.open(path, 1);
  const header = (type, sector) => {
    const bytes = Buffer.alloc(BLK_HEADER_BYTES);
    bytes.writeUInt32LE(type, 0);
    bytes.writeBigUInt64LE(BigInt(sector), 8);
    return bytes;
  };
  const data = Buffer.alloc(BLK_BYTES, 'data');
  const write = Buffer.concat([header(BLK_WRITE, 0), data]);
  await probe.ask(0, 'write', { readable: write, writable: [1] });
  const read = async (what, sector) => {
    const parts = { readable: header(BLK_READ, sector), writable: [BLK_BYTES, 1] };
    return (await probe.ask(0, what, parts)).at(-1);
  };
  if ((await read('read', 0)) !== 0) throw new Error('the read failed');
  if ((await read('read that fails', failed)) === 0) throw new Error('the read did not fail');
  await probe.close();
  return probe.lengths;
}
