/** The console device over ends that tests hold. */
import * as v from 'valibot';
import { type AnyDeviceDefinition, defineDevice } from '../../kit/index.js';
import { NullEnd } from './backend-null.js';
import { ConsoleDevice } from './device.js';
import { consoleDevice } from './index.js';
import { parsePort } from './options.js';

/** With ports as `--port` has them, or, without any, the single-port form. Ends go to `ends`. */
export function scriptedConsole(ports: readonly string[], ends: NullEnd[]): AnyDeviceDefinition {
  return defineDevice({
    ...consoleDevice,
    options: v.object({}),
    arguments: {},
    open: (_options, host) =>
      new ConsoleDevice(
        {
          ports: (ports.length === 0 ? [',console'] : ports).map(parsePort),
          isMultiport: ports.length > 0,
          size: { cols: 80, rows: 24 },
          openEnd: (_spec, events) => {
            const end = new NullEnd(events);
            end.heard = new Uint8Array(0);
            ends.push(end);
            return end;
          },
        },
        host,
      ).open(),
  });
}
