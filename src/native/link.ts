/** Network interfaces that exist in software only, by route netlink (linux/rtnetlink.h). */
import { readSync, writeSync } from 'node:fs';
import { SystemError } from '../errors.js';
import { errnoName } from './libc.js';
import { openRouteNetlink } from './netlink.js';

const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLM_F_EXCL = 0x200;
const NLM_F_CREATE = 0x400;
const NLMSG_ERROR = 2;
const IFF_UP = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_LINKINFO = 18;
const IFLA_INFO_KIND = 1;

/** nlmsghdr and ifinfomsg. */
const HEADERS_SIZE = 32;
const ANSWER_SIZE = 4096;

function attribute(type: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(Math.ceil((4 + payload.length) / 4) * 4);
  bytes.writeUInt16LE(4 + payload.length, 0);
  bytes.writeUInt16LE(type, 2);
  bytes.set(payload, 4);
  return bytes;
}

const text = (value: string): Buffer => Buffer.from(`${value}\0`);

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** Sends a request, and reads the acknowledgement that the kernel has ready when that returns. */
function request(type: number, flags: number, linkFlags: number, attributes: Buffer[]): number {
  const message = Buffer.concat([Buffer.alloc(HEADERS_SIZE), ...attributes]);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE(type, 4);
  message.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK | flags, 6);
  message.writeUInt32LE(linkFlags, 24);
  message.writeUInt32LE(linkFlags, 28); // The flags that change.
  const socket = openRouteNetlink();
  try {
    writeSync(socket.number, message);
    const answer = Buffer.alloc(ANSWER_SIZE);
    const size = readSync(socket.number, answer);
    if (size < 20 || answer.readUInt16LE(4) !== NLMSG_ERROR) return 0;
    return answer.readInt32LE(16);
  } finally {
    socket.close();
  }
}

/** Makes an interface of a kind (`vcan`) that is up. @throws SystemError, EEXIST among them */
export function createLink(name: string, kind: string, mtu: number): void {
  const info = attribute(IFLA_INFO_KIND, Buffer.from(kind));
  const result = request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, IFF_UP, [
    attribute(IFLA_IFNAME, text(name)),
    attribute(IFLA_MTU, number(mtu)),
    attribute(IFLA_LINKINFO, info),
  ]);
  if (result < 0) throw new SystemError('RTM_NEWLINK', errnoName(-result), name);
}

/** Takes an interface away; false when that was not possible. */
export function removeLink(name: string): boolean {
  return request(RTM_DELLINK, 0, 0, [attribute(IFLA_IFNAME, text(name))]) === 0;
}
