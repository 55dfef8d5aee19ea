/** A device of the host's in the guest of a job: its node, its rings, and how to talk to it. */

import {
  appendFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  realpathSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { waitFor } from './programs.mjs';
import { RUN } from './system.mjs';

const NODE_MS = 60_000;
/** Feature bits that tell which rings are in use. */
const RING_FEATURES = { packed: 34, indirect: 28, 'event index': 29, 'in order': 35 };

/** Where the node is, seen from the virtio device, and what programs call it. */
const NODES = {
  input: { path: 'input/input\\d+/event\\d+', name: (node) => `/dev/input/${node}` },
  gpio: { path: 'gpiochip\\d+', name: (node) => node },
  sound: { path: 'sound/card\\d+', name: (node) => node.replace('card', '') },
};

/** The first path below a folder whose parts match these patterns. */
function find(folder, [pattern, ...rest]) {
  if (pattern === undefined) return folder;
  if (!existsSync(folder)) return null;
  for (const name of readdirSync(folder)) {
    const path = new RegExp(`^${pattern}$`).test(name) && find(join(folder, name), rest);
    if (path) return path;
  }
  return null;
}

export class GuestDevice {
  /** @param {import('./machine-devices.mjs').MachineDevice} device */
  constructor({ name, type, ring, slot }) {
    Object.assign(this, { name, type, ring });
    this.folder = `${RUN}/machine/${name}`;
    this.pci = `/sys/bus/pci/devices/0000:00:${slot.toString(16)}.0`;
    this.answerCount = 0;
  }

  path(name) {
    return join(this.folder, name);
  }

  /** Its folder in sysfs. */
  get virtio() {
    const path = find(this.pci, ['virtio\\d+']);
    if (path === null) throw new Error(`${this.name}: no virtio device in ${this.pci}`);
    return path;
  }

  /** Waits for what the driver makes of it: path of a node, name of a chip, or number of a card. */
  async waitForNode() {
    const { path, name } = NODES[this.type];
    const isThere = () => find(this.virtio, path.split('/'));
    const folder = await waitFor(isThere, `node of ${this.name}`, NODE_MS);
    this.node = name(folder.split('/').at(-1));
    return this.node;
  }

  /** What driver and device agreed on. */
  ringFeatures() {
    const bits = readFileSync(`${this.virtio}/features`, 'latin1');
    return Object.keys(RING_FEATURES).filter((name) => bits[RING_FEATURES[name]] === '1');
  }

  /** Its driver lets go of it, and takes it again. */
  async rebind() {
    const name = this.virtio.split('/').at(-1);
    const driver = realpathSync(`${this.virtio}/driver`);
    writeFileSync(`${driver}/unbind`, name);
    writeFileSync(`${driver}/bind`, name);
    return this.waitForNode();
  }

  /** The process's log on the host. */
  get log() {
    return readFileSync(this.path('log'), 'utf8');
  }

  waitForLog(pattern, from = 0) {
    return waitFor(
      () => pattern.test(this.log.slice(from)),
      `${pattern} in the log of ${this.name}`,
    );
  }

  /** Lines of a script. @param {...object} lines */
  write(...lines) {
    appendFileSync(this.path('say'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  }

  /** A command for its control socket; gives the answer. @param {string} command */
  async say(command) {
    appendFileSync(this.path('say'), `${command}\n`);
    const answer = () => {
      if (!existsSync(this.path('answers'))) return undefined;
      return readFileSync(this.path('answers'), 'utf8').split('\n').slice(0, -1)[this.answerCount];
    };
    const reply = JSON.parse(await waitFor(answer, `answer to '${command}'`));
    this.answerCount += 1;
    if (reply.error !== undefined) throw new Error(reply.error);
    return reply;
  }
}
