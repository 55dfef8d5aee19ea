/**
 * `vlo completion SHELL`: a script that completes command lines.
 *
 * The script holds all that can be told of the tree of commands when it is made, and asks nothing
 * but files while it is used: to start Node at each press of the key takes a sixth of a second and
 * more on small machines, and a script costs some milliseconds when a shell starts.
 */
import type { Command } from 'commander';
import { VloError } from '../../errors.js';
import { bashScript } from './bash.js';
import { fishScript } from './fish.js';
import { type CommandPlace, describeProgram } from './tree.js';
import { SHELLS, type Shell } from './values.js';
import { zshScript } from './zsh.js';

const SCRIPTS: Readonly<Record<Shell, (program: CommandPlace) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};

/** The script of a program with all its commands. @throws VloError VLO_USAGE */
export function completionScript(program: Command, name: string): string {
  const shell = SHELLS.find((known) => known === name);
  if (shell === undefined) {
    const message = `completion: one of ${SHELLS.join(', ')} is needed, not '${name}'`;
    throw new VloError('VLO_USAGE', message);
  }
  return SCRIPTS[shell](describeProgram(program));
}

const EXAMPLES = `
Examples:
  $ source <(vlo completion bash)          # in ~/.bashrc
  $ source <(vlo completion zsh)           # in ~/.zshrc, after compinit
  $ vlo completion fish | source           # in ~/.config/fish/config.fish
`;

/** Adds the command, for the commands that are there and those that come later. */
export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('print the script that completes command lines in a shell')
    .argument('<shell>', SHELLS.join(', '))
    .addHelpText('after', EXAMPLES)
    .allowExcessArguments(false)
    .action((shell: string) => {
      process.stdout.write(completionScript(program, shell));
    });
}
