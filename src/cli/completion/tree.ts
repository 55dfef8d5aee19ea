/** The commands as the shells' scripts need them: names, flags, and what each takes. */
import type { Argument, Command, Option } from 'commander';
import { type Values, valuesOfArgument, valuesOfOption } from './values.js';

export interface OptionPlace {
  /** `-b` and `--blk-file`, or one of them. */
  readonly flags: readonly string[];
  readonly summary: string;
  /** Name and values of what follows; null where nothing does. */
  readonly value: ValuePlace | null;
}

export interface ValuePlace {
  readonly name: string;
  readonly isVariadic: boolean;
  readonly values: Values;
}

export interface CommandPlace {
  /** Names from the program down, with the program's own. */
  readonly path: readonly string[];
  readonly summary: string;
  readonly options: readonly OptionPlace[];
  /** What has no flag, in its order; nothing where there are commands. */
  readonly values: readonly ValuePlace[];
  readonly commands: readonly CommandPlace[];
}

function optionPlace(path: readonly string[], option: Option): OptionPlace {
  const { short, long, description, variadic: isVariadic } = option;
  const flags = [short, long].filter((flag) => flag !== undefined);
  const takesValue = option.required || option.optional;
  const name = /[<[]([^\]>.]+)/.exec(option.flags)?.[1] ?? 'value';
  const value = { name, isVariadic, values: valuesOfOption(path, option) };
  return { flags, summary: description, value: takesValue ? value : null };
}

function valuePlace(path: readonly string[], argument: Argument): ValuePlace {
  const values = valuesOfArgument(path, argument);
  return { name: argument.name(), isVariadic: argument.variadic, values };
}

/** A program and all below it, as its help shows them. */
export function describeProgram(program: Command): CommandPlace {
  return describeCommand(program, [], []);
}

/** `path` is without the program's own name, as that of places with known values. */
function describeCommand(
  command: Command,
  path: readonly string[],
  siblings: readonly string[],
): CommandPlace {
  const help = command.createHelp();
  const below = help.visibleCommands(command);
  const names = below.map((child) => child.name()).filter((name) => name !== 'help');
  const isHelp = path.at(-1) === 'help';
  const ownValues = command.registeredArguments.map((argument) => valuePlace(path, argument));
  const helpValue = { name: 'command', isVariadic: false, values: siblings };
  return {
    path: ['vlo', ...path],
    summary: command.description(),
    options: help.visibleOptions(command).map((option) => optionPlace(path, option)),
    // A command with commands below it takes the name of one of them.
    values: below.length > 0 ? [] : isHelp ? [helpValue] : ownValues,
    commands: below.map((child) => describeCommand(child, [...path, child.name()], names)),
  };
}

/** The command and all below it, in one list. */
export function allCommands(command: CommandPlace): CommandPlace[] {
  return [command, ...command.commands.flatMap(allCommands)];
}
