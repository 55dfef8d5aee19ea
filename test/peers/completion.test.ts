/** The completion scripts in Debian's zsh and fish, which few machines have. */
import { writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { completionScript } from '../../src/cli/completion/index.ts';
import {
  asWritten,
  FISH_ASK,
  FISH_LINES,
  furnish,
  KEY_PRESSES,
  written,
  ZSH_KEYS,
} from '../../src/cli/completion/test-utils.ts';
import { makeProgram } from '../../src/cli/program.ts';
import { describeWithPeers, mustRunInPeers } from './support/peers.ts';
import { Workspace } from './support/process.ts';

/** A shell in a folder with its script, a file of devices, an image and a run directory. */
async function furnished(shell: 'zsh' | 'fish') {
  const ws = new Workspace();
  furnish(ws.dir);
  writeFileSync(ws.path(`vlo.${shell}`), completionScript(await makeProgram(), shell));
  return (...words: string[]) => mustRunInPeers(ws, ['env', '-C', '/sock', shell, ...words]);
}

describeWithPeers('completion', () => {
  test('zsh: the syntax, and key presses', async () => {
    const zsh = await furnished('zsh');
    expect(await zsh('-n', 'vlo.zsh')).toBe('');
    const keys = KEY_PRESSES.map(([line]) => line);
    const output = await zsh('-f', '-c', ZSH_KEYS, 'zsh', 'vlo.zsh', ...keys);
    expect(written(output)).toEqual(KEY_PRESSES.map(([, words]) => asWritten(words)));
  });

  test('fish: the syntax, and what it shows', async () => {
    const fish = await furnished('fish');
    expect(await fish('-n', 'vlo.fish')).toBe('');
    const output = await fish('-c', FISH_ASK, 'vlo.fish', ...FISH_LINES.map(([line]) => line));
    const shown = FISH_LINES.map(([, words]) => words.join('|'));
    expect(output.split('\n').slice(0, -1)).toEqual(shown);
  });
});
