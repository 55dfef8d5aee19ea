/**
 * The program behind {@link startVdpa}: `add NAME` or `del NAME`. Writes the name of the errno when
 * the kernel refused, and nothing when it did what was asked.
 */
import { assert } from '../../errors.js';
import { runVdpa } from './vdpa.js';

const [action, name] = process.argv.slice(2);
assert((action === 'add' || action === 'del') && name !== undefined, 'usage: add|del NAME');
// Who started this process may be dead by now, and its pipe with it.
process.stdout.on('error', () => {});
process.stdout.write(runVdpa(action, name) ?? '');
