/**
 * Breaks things in the life of a device, at random: back ends and adapters that are killed, hang or
 * are replaced; modules that are to be removed; devices that go under load; back ends that turn
 * against the driver. Nothing may hang. Data is not lost and not wrong where another process takes
 * over; else requests fail and the device goes.
 *
 *   npm run lab -- chaos [-- --rounds 50 --seed 1 --from 1 --only 'adapter killed|hangs']
 *
 * `--only` is a regular expression for rounds as they are printed; after `--minutes` no other begins. All
 * kinds of rounds come in a random order, then again in another one. What a round draws depends on
 * the seed and its number alone. Disks that have survived serve the next round as well.
 */

import { parseArgs } from 'node:util';
import { HOSTILE_ROUNDS } from './support/chaos-hostile.mjs';
import { REPLACE_ROUNDS } from './support/chaos-replace.mjs';
import { ROUNDS } from './support/chaos-rounds.mjs';
import { LIMITS, Load, Stand, settle, TooShort } from './support/chaos-stand.mjs';
import { check, fact, print } from './support/checks.mjs';
import { generator } from './support/random.mjs';
import { endSpares, keepSpares } from './support/spares.mjs';
import { waitForNoDevices } from './support/stand.mjs';
import { insertModule, modprobe, removeModule, whereabouts } from './support/system.mjs';

const ROUND_MS = 300_000;
/** fio is to have that much to do, in seconds, on a disk that nothing happens to. */
const LOAD_S = 3;
const LOOPS_MAX = 40;
/** Rounds with one seed, before those with the next begin anew. */
const ROUNDS_MAX = 10_000;
const ALL_ROUNDS = [...ROUNDS, ...REPLACE_ROUNDS, ...HOSTILE_ROUNDS];
/** A round that takes longer had too much to do: the machine has other work as well. */
const SLOW_MS = 40_000;

function readOptions(words) {
  const { values } = parseArgs({
    args: words,
    options: {
      rounds: { type: 'string', default: '50' },
      seed: { type: 'string', default: '1' },
      from: { type: 'string', default: '1' },
      only: { type: 'string', default: '' },
      minutes: { type: 'string', default: `${24 * 60}` },
    },
  });
  const { rounds, seed, from, only, minutes } = values;
  const end = performance.now() + Number(minutes) * 60_000;
  return { rounds: Number(rounds), seed: Number(seed), from: Number(from), only, end };
}

/** Disks that outlive a round, by their layout. */
class Stands {
  constructor() {
    this.known = new Map();
  }

  get count() {
    return this.known.size;
  }

  async get(layout) {
    const key = Object.values(layout).join(' ');
    let stand = this.known.get(key);
    if (stand === undefined) {
      stand = await new Stand(layout).up();
      this.known.set(key, stand);
    }
    return stand;
  }

  forget(stand) {
    for (const [key, other] of this.known) if (other === stand) this.known.delete(key);
  }

  all() {
    return [...this.known.values()];
  }
}

const describe = ({ title, layout }) => [title, ...Object.values(layout)].join(', ');

class Chaos {
  constructor(seed) {
    this.seed = seed;
    this.order = generator(seed);
    this.stands = new Stands();
    this.loops = 1;
    this.deck = [];
  }

  /** How much fio does in a few seconds here, so that it is under way when something happens. */
  async calibrate() {
    const stand = await this.stands.get({ memory: 'bounce', ring: 'split' });
    const since = performance.now();
    const text = await new Load(stand.node).mustPass();
    const seconds = (performance.now() - since) / 1000;
    this.loops = Math.min(LOOPS_MAX, Math.max(1, Math.round(LOAD_S / seconds)));
    fact('loops', this.loops);
    return `${text} in ${seconds.toFixed(1)} s; ${this.loops} times for each round`;
  }

  draw(only) {
    if (this.deck.length === 0) {
      const kinds = ALL_ROUNDS.filter((kind) => new RegExp(only).test(describe(kind)));
      if (kinds.length === 0) throw new Error(`no round's title matches '${only}'`);
      this.deck = this.order.shuffle(kinds);
    }
    return this.deck.pop();
  }

  /** A round; with more for fio to do, when it was done before anything happened. */
  async play(kind, round) {
    // Of its own, so that it does not depend on what happened in other rounds.
    this.random = generator(this.seed * ROUNDS_MAX + round);
    for (;;) {
      const since = performance.now();
      try {
        const text = await this.playOnce(kind);
        const isSlow = performance.now() - since > SLOW_MS;
        if (isSlow) this.loops = Math.max(1, Math.floor(this.loops / 2));
        return text;
      } catch (error) {
        if (!(error instanceof TooShort) || this.loops >= LOOPS_MAX) throw error;
        this.loops *= 2;
        await this.playing.mend();
        if (!this.stands.all().includes(this.playing)) await this.playing.down();
      }
    }
  }

  async playOnce({ layout, action, isLast = false, takeover }) {
    const { stands, random, loops } = this;
    const isOwn = takeover !== undefined;
    const stand = isOwn ? await new Stand({ ...layout, takeover }).up() : await stands.get(layout);
    this.playing = stand;
    stand.others = isOwn ? stands.count : stands.count - 1;
    const text = await action({ stand, random, loops });
    if (isLast) stands.forget(stand);
    await settle(stands.count);
    if (isLast) stand.remove();
    return text;
  }

  /** After a round that failed nothing is sure: all that there is goes. */
  async clear() {
    const all = new Set([...this.stands.all(), ...(this.playing ? [this.playing] : [])]);
    this.stands = new Stands();
    const { server, adapter } = this.playing ?? {};
    for (const { pid } of [server, adapter].filter(Boolean)) print(whereabouts(pid).join('\n'));
    for (const stand of all) await stand.discard();
    await waitForNoDevices(90_000);
  }

  async finish() {
    endSpares();
    for (const stand of this.stands.all()) await stand.down();
    await waitForNoDevices();
    await removeModule();
  }
}

export default async function chaos(words) {
  const { rounds, seed, from, only, end } = readOptions(words);
  const game = new Chaos(seed);
  fact('seed', seed);
  await check('the module loads', async () => {
    await modprobe('virtio_blk');
    await modprobe('ext4');
    await insertModule();
    keepSpares();
  });
  const isReady = await check('fio on a disk that nothing happens to', () => game.calibrate(), {
    timeout: LIMITS.FIO_MS + LIMITS.READY_MS,
  });
  for (let round = 1; isReady && round <= rounds && performance.now() < end; round += 1) {
    const kind = game.draw(only);
    if (round < from) continue;
    const title = `${round}: ${kind.title.startsWith('back end:') ? kind.title : describe(kind)}`;
    const isGood = await check(title, () => game.play(kind, round), { timeout: ROUND_MS });
    if (!isGood && !(await check(`${round}: all is taken away`, () => game.clear()))) break;
  }
  await check('no device is left, and the module goes', () => game.finish(), { timeout: ROUND_MS });
}
