/** Netlink sockets: how the kernel is asked for what has no file of its own. */
import { Fd } from './fd.js';
import { check, libc } from './libc.js';

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_ROUTE = 0;
const NETLINK_GENERIC = 16;

/** Opens a socket to the kernel's network interfaces. @throws SystemError */
export function openRouteNetlink(): Fd {
  return new Fd(check(libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), 'socket'));
}

/**
 * Opens a socket to the kernel's generic netlink families. Writing a message has the kernel carry
 * it out before the call returns, however long that takes; what it answers is read afterwards.
 * @throws SystemError
 */
export function openGenericNetlink(): Fd {
  return new Fd(check(libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC), 'socket'));
}
