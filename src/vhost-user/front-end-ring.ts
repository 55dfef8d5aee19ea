/** What a front end says to have a ring served, and stopped; and to share memory. */
import { VloError } from '../errors.js';
import type { Fd } from '../native/index.js';
import type { FrontEndSession } from './front-end-session.js';
import type { Payload } from './messages.js';

/** A ring as the back end is told of it. */
export interface RingStart {
  readonly index: number;
  /** Number of entries. */
  readonly size: number;
  /** What SET_VRING_BASE says. */
  readonly base: number;
  readonly address: Payload<'SET_VRING_ADDR'>;
  readonly kick: Fd;
  readonly call: Fd;
  readonly err: Fd;
}

/** Has the back end serve a ring. */
export async function startRing(session: FrontEndSession, ring: RingStart): Promise<void> {
  const { link } = session;
  const { index } = ring;
  const word = { value: BigInt(index) };
  link.send('SET_VRING_NUM', { index, num: ring.size });
  link.send('SET_VRING_BASE', { index, num: ring.base });
  const address = link.ack('SET_VRING_ADDR', ring.address);
  if (session.has('INBAND_NOTIFICATIONS')) {
    link.send('VRING_KICK', { index, num: 0 });
  } else {
    link.send('SET_VRING_CALL', word, [ring.call]);
    link.send('SET_VRING_ERR', word, [ring.err]);
    link.send('SET_VRING_KICK', word, [ring.kick]);
  }
  await address;
  if (session.hasRingEnable) await link.ack('SET_VRING_ENABLE', { index, num: 1 });
}

/** Stops a ring in an orderly way; returns its base. */
export async function stopRing({ link }: FrontEndSession, index: number): Promise<number> {
  const { payload } = await link.request('GET_VRING_BASE', { index, num: 0 });
  if (payload.index === index) return payload.num;
  throw new VloError('VLO_PROTOCOL', `the base of queue ${payload.index}, not of ${index}`);
}

/** Memory as the messages name it. */
export interface DescribedRegion {
  readonly fd: Fd;
  readonly description: Payload<'ADD_MEM_REG'>;
}

/**
 * Shares one more region. `regions` is the whole list, with it: back ends without slots get all.
 */
export async function addRegion(
  session: FrontEndSession,
  region: DescribedRegion,
  regions: readonly DescribedRegion[],
): Promise<void> {
  if (!session.has('CONFIGURE_MEM_SLOTS')) return sendTable(session, regions);
  await session.link.ack('ADD_MEM_REG', region.description, [region.fd]);
}

/** Takes a region back; `regions` is the whole list, without it. */
export async function removeRegion(
  session: FrontEndSession,
  region: DescribedRegion,
  regions: readonly DescribedRegion[],
): Promise<void> {
  if (!session.has('CONFIGURE_MEM_SLOTS')) return sendTable(session, regions);
  await session.link.ack('REM_MEM_REG', region.description);
}

/** Shares all regions with a back end that has none yet. */
export async function shareAll(
  session: FrontEndSession,
  regions: readonly DescribedRegion[],
): Promise<void> {
  if (!session.has('CONFIGURE_MEM_SLOTS')) {
    if (regions.length > 0) await sendTable(session, regions);
    return;
  }
  for (const region of regions) await addRegion(session, region, regions);
}

async function sendTable(
  session: FrontEndSession,
  regions: readonly DescribedRegion[],
): Promise<void> {
  const table = { regions: regions.map((region) => region.description) };
  await session.link.ack(
    'SET_MEM_TABLE',
    table,
    regions.map((region) => region.fd),
  );
}
