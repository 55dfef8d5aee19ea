/** The CAN device: a controller on a bus, real or simulated. */
import * as v from 'valibot';
import { VloError } from '../../errors.js';
import { defineDevice } from '../../kit/index.js';
import { VIRTIO_ID } from '../../virtio/index.js';
import { SimulatedBus } from './backend-simulated.js';
import { SocketCanBus } from './backend-socketcan.js';
import { CanDevice } from './device.js';

const BUS_DEFAULT = 'bus0';

/** `vlo serve can`. */
export const can = defineDevice({
  name: 'can',
  summary: 'a CAN controller, on a CAN interface or on a simulated bus',
  virtioId: VIRTIO_ID.can,
  options: v.object({
    canDevices: v.optional(
      v.pipe(
        v.string('the name of an interface is needed'),
        v.regex(/^[^\s/,]{1,15}$/, 'the name of one interface is needed, up to 15 characters'),
      ),
    ),
    bus: v.optional(
      v.pipe(
        v.string('a name is needed'),
        v.regex(/^[\w-]{1,32}$/, 'up to 32 letters, digits, _ and - are needed'),
      ),
    ),
  }),
  arguments: {
    canDevices: {
      flags: '-d, --can-devices <name>',
      description: 'CAN interface of this machine to connect to, such as can0',
    },
    bus: {
      flags: '--bus <name>',
      description: `simulated bus, shared by the devices of one process (default: ${BUS_DEFAULT})`,
    },
  },
  examples: [
    'vlo serve can --socket-path /tmp/can.sock --can-devices can0',
    'vlo serve can --socket-path /tmp/can.sock --bus engine',
  ],
  queues: [{ name: 'txq' }, { name: 'rxq', kind: 'supply' }, { name: 'controlq' }],
  async open({ canDevices, bus }, host) {
    if (canDevices !== undefined && bus !== undefined) {
      const message = 'can: --bus does not go with --can-devices: take one of them out';
      throw new VloError('VLO_OPTION_INVALID', message);
    }
    const log = (line: string): void => host.log(line);
    const backend =
      canDevices === undefined
        ? new SimulatedBus(bus ?? BUS_DEFAULT)
        : await SocketCanBus.open(canDevices, { canConfirm: true, log });
    return new CanDevice(backend, host).open();
  },
});
