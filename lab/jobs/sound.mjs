/**
 * The sound device under the kernel's virtio_snd, over the loopback module: what aplay plays and
 * arecord records, jacks, streams at the same time, and processes that die under a player.
 */

import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { check, figure } from './support/checks.mjs';
import { run, start, waitFor } from './support/programs.mjs';
import { frameTimes, spread } from './support/sound-times.mjs';
import { attach, folder, serve, waitForNoDevices } from './support/stand.mjs';
import { ARCH, insertModule, modprobe, removeModule } from './support/system.mjs';
import { difference, HEADER_SIZE, writeWav } from './support/wav.mjs';

const LOOPBACK = ['--transport', 'loopback'];
/**
 * Periods of 20 ms. The kernel gives up when nothing is played for a little longer than the buffer
 * lasts: where all is emulated, what a process does for the first time may take 200 ms.
 */
const PERIODS = ['--period-size=960', '--buffer-size=30720'];
/** Long enough, with buffers that last for longer than it takes to start another process. */
const LONG = ['-d', '12', '--period-size=19200', '--buffer-size=307200'];
const CHECK = { timeout: ARCH === 'x86-64' ? 120_000 : 300_000 };

/** A sound card in service: its processes, its number, and its control socket. */
class Card {
  constructor() {
    this.place = folder('sound');
    mkdirSync(join(this.place, 'out'));
  }

  path(name) {
    return join(this.place, name);
  }

  async open(words) {
    this.words = [...words, '--control', this.path('control'), '--state', this.path('state')];
    await this.serve();
    await this.attach();
    const [, number] = /^\/dev\/snd\/controlC(\d+)$/.exec(this.node ?? '') ?? [];
    if (number === undefined) throw new Error(`the node is '${this.node}'`);
    this.number = number;
    return this;
  }

  async attach(more = []) {
    const words = [...LOOPBACK, '--name', 'card', ...more]; // By its name it is taken over.
    const { program, node } = await attach('sound', this.path('socket'), words);
    Object.assign(this, { adapter: program, node });
  }

  async serve() {
    this.device = await serve('sound', this.path('socket'), this.words);
  }

  pcm(device) {
    return `hw:${this.number},${device}`;
  }

  /** Plays a file on a PCM device; throws when its copy on the other side is not the same. */
  async play(file, device = 0, words = []) {
    const { stderr } = await run(['aplay', '-D', this.pcm(device), ...words, file]);
    if (/xrun|underrun/i.test(stderr)) throw new Error(stderr);
    const [sent, heard] = [file, this.lastTake(device)].map((path) => readFileSync(path));
    if (!sent.equals(heard)) throw new Error(difference(sent, heard));
  }

  /** The file of what was played last on a device. */
  lastTake(device) {
    const files = readdirSync(this.path('out'))
      .filter((name) => name.startsWith(`${device * 2}-`))
      .map((name) => this.path(`out/${name}`))
      .sort((a, b) => statSync(a).mtimeMs - statSync(b).mtimeMs);
    return files.at(-1);
  }

  /** Says one command to the control socket. */
  say(command) {
    return new Promise((resolve, reject) => {
      const socket = createConnection(this.path('control'));
      socket.setEncoding('utf8').on('error', reject);
      socket.once('data', (text) => {
        socket.destroy();
        resolve(JSON.parse(text));
      });
      socket.write(`${command}\n`);
    });
  }

  async xruns() {
    const { streams } = await this.say('status');
    return streams.map(({ xruns }) => xruns);
  }

  async detach() {
    if ((await this.adapter.stop()) !== 0) throw new Error(this.adapter.stderr);
    await waitForNoDevices();
  }
}

/** What the kernel made of the device. */
async function look(card) {
  const { stdout: players } = await run(['aplay', '-l']);
  const { stdout: recorders } = await run(['arecord', '-l']);
  for (const list of [players, recorders]) {
    for (const device of [0, 1]) {
      const line = new RegExp(`card ${card.number}: .*VirtIO.*device ${device}: .*VirtIO PCM`);
      if (!line.test(list)) throw new Error(list);
    }
  }
  const { stdout } = await run(['amixer', '-c', card.number, 'controls']);
  for (const name of ['Line Out Jack', 'Mic Jack', 'Playback Channel Map', 'Capture Channel Map']) {
    if (!stdout.includes(`name='${name}'`)) throw new Error(`${name} is missing:\n${stdout}`);
  }
  return `${card.node}, ${stdout.trim().split('\n').length} controls`;
}

/** Formats, rates and channels, each kept byte for byte. */
async function playFormats(card) {
  const kinds = [
    { format: 'U8', rate: 8000, channels: 1 },
    { format: 'S24_3LE', rate: 44100, channels: 2 },
    { format: 'S32_LE', rate: 96000, channels: 2 },
    { format: 'FLOAT_LE', rate: 192000, channels: 2 },
  ];
  for (const kind of kinds) {
    // A whole number of periods: aplay fills the last one up with silence.
    const frameCount = kind.rate / 2;
    const file = writeWav(card.path('source.wav'), { ...kind, frameCount });
    await card.play(file, 0, [`--period-size=${kind.rate / 20}`]);
  }
  return kinds.map(({ format, rate }) => `${format} ${rate}`).join(', ');
}

async function playLong(card, seconds) {
  const file = writeWav(card.path('source.wav'), { frameCount: seconds * 48000 });
  const startedAt = performance.now();
  await card.play(file, 0, PERIODS);
  const took = (performance.now() - startedAt) / 1000;
  // A card that took all at once would not be one.
  if (took < seconds) throw new Error(`${seconds} s of sound took ${took.toFixed(2)} s`);
  return `${seconds} s of sound in ${took.toFixed(2)} s, the file is the same`;
}

async function record(card, source, seconds) {
  const copy = card.path('recorded.wav');
  const { stderr } = await run([
    ...['arecord', '-D', card.pcm(0), '-f', 'S16_LE', '-r', '48000', '-c', '2'],
    ...['-d', `${seconds}`, ...PERIODS, copy],
  ]);
  if (/overrun/i.test(stderr)) throw new Error(stderr);
  const [wanted, got] = [source, copy].map((path) => readFileSync(path).subarray(HEADER_SIZE));
  if (got.length < seconds * 192000) throw new Error(`${got.length} bytes`);
  if (!got.equals(wanted.subarray(0, got.length))) throw new Error(difference(wanted, got));
  return `${got.length} bytes, those of the file`;
}

async function playTwo(card) {
  const names = ['one.wav', 'two.wav'];
  const files = names.map((name) => writeWav(card.path(name), { frameCount: 3 * 48000 }));
  const playing = Promise.all(files.map((file, device) => card.play(file, device, PERIODS)));
  const isBoth = async () => {
    const { streams } = await card.say('status');
    return streams[0].state === 'running' && streams[2].state === 'running';
  };
  await Promise.all([playing, waitFor(isBoth, 'time at which both play', 30_000)]);
  return 'two times 3 s, both the same';
}

async function plug(card) {
  const isOn = async () => {
    const words = ['cget', "iface=CARD,name='Line Out Jack'"];
    return /values=on/.test((await run(['amixer', '-c', card.number, ...words])).stdout);
  };
  if (!(await isOn())) throw new Error('the jack is off at first');
  await card.say('jack 0 off');
  await waitFor(async () => !(await isOn()), 'event of a plug that was pulled');
  await card.say('jack 0 on');
  await waitFor(isOn, 'event of a plug');
}

/** A minute of both ways at once, with the buffer that a desktop would take. */
async function playMinute(card, seconds) {
  const before = await card.xruns();
  const common = ['-f', 'S16_LE', '-r', '48000', '-c', '2', '-t', 'raw', '-d', `${seconds}`];
  const sizes = ['--period-size=1920', '--buffer-size=30720'];
  const programs = [
    start(['aplay', '-D', card.pcm(0), ...common, ...sizes, '/dev/zero']),
    start(['arecord', '-D', card.pcm(0), ...common, ...sizes, '/dev/null']),
  ];
  for (const program of programs) {
    const status = await program.ended;
    if (status !== 0 || /xrun|underrun|overrun/i.test(program.stderr)) {
      throw new Error(`${program.command[0]}: status ${status}: ${program.stderr}`);
    }
  }
  const after = await card.xruns();
  if (after.join() !== before.join()) throw new Error(`xruns: ${before} became ${after}`);
  return `${seconds} s both ways, periods of 40 ms`;
}

/** Plays silence, and resolves as soon as the device plays it. */
async function startPlayer(card, words) {
  const player = start([
    ...['aplay', '-D', card.pcm(0), '-f', 'S16_LE', '-r', '48000', '-c', '2', '-t', 'raw'],
    ...words,
    '/dev/zero',
  ]);
  await waitFor(
    async () => (await card.say('status')).streams[0].state === 'running',
    'stream that runs',
  );
  return player;
}

async function playOn(card, player) {
  const status = await player.ended;
  if (status !== 0) throw new Error(`the player ended with ${status}: ${player.stderr}`);
  const { streams } = await card.say('status');
  return `the player went on; xruns: ${streams[0].xruns}`;
}

/** The adapter dies under a player, and the next one takes its place: the player goes on. */
async function replaceAdapter(card) {
  const player = await startPlayer(card, LONG);
  card.adapter.kill('SIGKILL');
  await card.adapter.ended;
  await card.attach();
  return playOn(card, player);
}

/** The device dies under a player, and the next one goes on where it has left off. */
async function replaceDevice(card) {
  const player = await startPlayer(card, LONG);
  card.device.kill('SIGKILL');
  await card.device.ended;
  await card.serve();
  return playOn(card, player);
}

/** The next one does not know what was played: the player ends, and another one plays. */
async function forgetStreams(card) {
  const player = await startPlayer(card, ['-d', '20']);
  card.device.kill('SIGKILL');
  await card.device.ended;
  rmSync(card.path('state'));
  await card.serve();
  await Promise.race([player.ended, waitFor(() => player.status !== null, 'end', 40_000)]);
  const ended = player.status;
  const file = writeWav(card.path('source.wav'), { frameCount: 48000 });
  await card.play(file, 0, PERIODS);
  return `the player ended with ${ended}, the next one plays`;
}

/**
 * Nobody takes the place of an adapter that died under a player, which gives up, and has its
 * control requests in the ring when the device is removed.
 */
async function abandon(card) {
  await card.detach();
  await card.attach(['--takeover', '3']);
  const player = await startPlayer(card, ['-d', '20', ...PERIODS]);
  card.adapter.kill('SIGKILL');
  await player.ended;
  await waitForNoDevices();
  return `the player ended with ${player.status}`;
}

/** How regularly periods of 10 ms come, beside the kernel's own loopback card. */
async function measureJitter(card) {
  await modprobe('snd_aloop', 'index=7');
  const figures = {};
  for (const [name, device] of [
    ['virtio', card.pcm(0)],
    ['aloop', 'hw:7,0'],
  ]) {
    const times = await frameTimes(device, { rate: 48000, periodSize: 480, seconds: 4 });
    figures[name] = spread(times, 10);
  }
  await run(['rmmod', 'snd_aloop']);
  const { virtio, aloop } = figures;
  return [
    figure('sound period jitter', 'ms', virtio.deviation, aloop.deviation, 'snd-aloop'),
    figure('sound worst period', 'ms late', virtio.worst, aloop.worst, 'snd-aloop'),
  ].join('; ');
}

export default async function sound(words) {
  const minute = words.includes('short') ? 5 : 60;
  const card = new Card();
  const source = writeWav(card.path('in.wav'), { frameCount: 80 * 48000 });
  await check('the module loads', async () => {
    // Its second for each answer is too short where all is emulated, and a late answer to a probe
    // that was given up makes it use memory that it has freed (Linux 7.2).
    await modprobe('virtio_snd', 'msg_timeout_ms=30000');
    await insertModule();
  });
  const isThere = await check(
    'a card with two devices appears',
    async () => {
      await card.open([
        ...['--audio-backend', 'wav', '--streams', '4', '--capture-file', source],
        ...['--playback-file', card.path('out/{stream}-{take}.wav')],
      ]);
      return look(card);
    },
    CHECK,
  );
  if (!isThere) return;
  await check('aplay: the WAV is the same', () => playLong(card, 3), CHECK);
  await check('aplay: formats and rates', () => playFormats(card), CHECK);
  await check('arecord: the WAV is the same', () => record(card, source, 3), CHECK);
  await check('two players at a time', () => playTwo(card), CHECK);
  await check('jacks', () => plug(card), CHECK);
  await check(`${minute} s without an xrun`, () => playMinute(card, minute), CHECK);
  await check('period jitter', () => measureJitter(card), CHECK);
  await check('an adapter that dies under a player', () => replaceAdapter(card), CHECK);
  await check('a device that dies under a player', () => replaceDevice(card), CHECK);
  await check('a device that forgot its streams', () => forgetStreams(card), CHECK);
  await check('an adapter that dies, and nobody comes', () => abandon(card), CHECK);
  await check('no device is left, and the module goes', async () => {
    await card.device.stop();
    await removeModule();
  });
}
