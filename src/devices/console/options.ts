/** The options of the console, as texts: `--port getty,chardev=pty,path=/tmp/tty`. */
import { VloError } from '../../errors.js';
import type { TerminalSize } from '../../native/index.js';
import { BACKENDS, type BackendName, type PortSpec } from './backend.js';
import { NAME_SIZE_MAX } from './wire.js';

const isBackend = (name: string): name is BackendName =>
  (BACKENDS as readonly string[]).includes(name);

const NEEDS_PATH: readonly BackendName[] = ['unix', 'file'];

function refuse(flag: string, problem: string): never {
  throw new VloError('VLO_OPTION_INVALID', `console: ${flag}: ${problem}`);
}

/** Checks a port. @throws VloError VLO_OPTION_INVALID */
export function checkPort(flag: string, port: PortSpec): PortSpec {
  const { name, backend, path } = port;
  if (Buffer.byteLength(name) > NAME_SIZE_MAX) {
    refuse(flag, `a name of up to ${NAME_SIZE_MAX} bytes is needed, not '${name}'`);
  }
  if (NEEDS_PATH.includes(backend) && (path === null || path === '')) {
    refuse(flag, `'${backend}' needs a path`);
  }
  if (path !== null && backend !== 'pty' && !NEEDS_PATH.includes(backend)) {
    refuse(flag, `'${backend}' takes no path`);
  }
  return port;
}

/**
 * Reads one `--port`: a name, then `chardev=`, `path=` and `console`, with commas between them.
 * @throws VloError VLO_OPTION_INVALID
 */
export function parsePort(text: string): PortSpec {
  const [name, ...parts] = text.split(',');
  const port: { -readonly [K in keyof PortSpec]: PortSpec[K] } = {
    name: name!,
    backend: 'pty',
    path: null,
    isConsole: false,
  };
  for (const part of parts) {
    const [key, value] = [part.split('=', 1)[0]!, part.slice(part.indexOf('=') + 1)];
    if (part === 'console') port.isConsole = true;
    else if (key === 'path' && key !== part) port.path = value;
    else if (key === 'chardev' && isBackend(value)) port.backend = value;
    else if (key === 'chardev') refuse('--port', `one of ${BACKENDS.join(', ')} is needed`);
    else refuse('--port', `chardev=, path= and console are known, not '${part}'`);
  }
  return checkPort('--port', port);
}

/** Checks that no two ports want the same thing. @throws VloError VLO_OPTION_INVALID */
export function checkPorts(ports: readonly PortSpec[]): readonly PortSpec[] {
  const paths = ports.map(({ path }) => path).filter((path) => path !== null);
  const names = ports.map(({ name }) => name).filter((name) => name !== '');
  const twice = (texts: string[]): string | undefined =>
    texts.find((text, index) => texts.indexOf(text) !== index);
  const [path, name] = [twice(paths), twice(names)];
  if (path !== undefined) refuse('--port', `'${path}' is the path of two ports`);
  if (name !== undefined) refuse('--port', `'${name}' is the name of two ports`);
  if (ports.filter(({ backend }) => backend === 'stdio').length > 1) {
    refuse('--port', "only one port can have 'stdio'");
  }
  return ports;
}

/** Reads `80x24`; null for anything else. */
export function parseTerminalSize(text: string): TerminalSize | null {
  const match = /^([1-9]\d{0,3})x([1-9]\d{0,3})$/.exec(text);
  return match === null ? null : { cols: Number(match[1]), rows: Number(match[2]) };
}
