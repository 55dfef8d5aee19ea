/** The script for fish: a line for each thing that may stand somewhere. */
import { allCommands, type CommandPlace, type OptionPlace } from './tree.js';
import type { Values } from './values.js';

/** Inside of single quotes fish knows \\ and \' only. */
const quoted = (text: string): string => `'${text.replace(/[\\']/g, '\\$&')}'`;

/** What `complete` says of values that stand behind an option, or without one. */
function valuesOf(values: Values): string {
  const words = { folder: '(__fish_complete_directories)', device: '(__vlo_devices)' };
  if (values === 'file') return '-F';
  if (values === 'any') return '';
  return `-a ${quoted(typeof values === 'string' ? words[values] : values.join(' '))}`;
}

function optionOf(condition: string, { flags, summary, value }: OptionPlace): string {
  const names = flags.map((flag) =>
    flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`,
  );
  const takes = value === null ? '' : value.values === 'file' ? '-r -F' : '-x';
  const values = value === null || value.values === 'file' ? '' : valuesOf(value.values);
  return line([condition, ...names, takes, values, `-d ${quoted(summary)}`]);
}

const line = (parts: readonly string[]): string =>
  `complete -c vlo ${parts.filter((part) => part !== '').join(' ')}\n`;

function linesOf({ path, options, values, commands }: CommandPlace): string {
  const names = path.slice(1).join(' ');
  // Commands follow their command at once; all else may stand anywhere behind it.
  const here = `-n ${quoted(`__vlo_is ${names}`.trim())}`;
  const below = commands.length > 0 ? here : `-n ${quoted(`__vlo_in ${names}`)}`;
  const lines = commands.map(({ path: [...child], summary }) =>
    line([here, `-a ${child.at(-1)}`, `-d ${quoted(summary)}`]),
  );
  for (const { values: possible } of values) {
    if (possible === 'any') continue;
    // A word that is there already is not asked for again.
    const isList = typeof possible !== 'string';
    const once = isList ? `; and not __vlo_has ${possible.join(' ')}` : '';
    lines.push(line([`-n ${quoted(`__vlo_in ${names}${once}`)}`, valuesOf(possible)]));
  }
  return [...lines, ...options.map((option) => optionOf(below, option))].join('');
}

const HEAD = `# Completion of vlo for fish: vlo completion fish | source

# Words before the cursor that are no options.
function __vlo_words
    set -l words (commandline -opc)
    set -e words[1]
    string match --invert -- '-*' $words
end

# Whether these commands, and nothing else, stand before the cursor.
function __vlo_is
    set -l words (__vlo_words)
    test "$words" = "$argv"
end

# Whether the words before the cursor begin with these commands.
function __vlo_in
    set -l words (__vlo_words)
    set -l count (count $argv)
    test (count $words) -ge $count; and test "$words[1..$count]" = "$argv"
end

# Whether one of these stands before the cursor, behind the command.
function __vlo_has
    set -l words (__vlo_words)
    set -e words[1]
    for word in $words
        contains -- $word $argv; and return 0
    end
    return 1
end

# Names of the devices of a running HAL.
function __vlo_devices
    set -l directory $XDG_RUNTIME_DIR/vlo
    test (id -u) = 0; and set directory /run/vlo
    set -l words (commandline -opc)
    set -l at (contains -i -- --run-dir $words); and set directory $words[(math $at + 1)]
    set -l status_file (string replace -r '^~/' "$HOME/" -- $directory)/status.json
    test -r $status_file; and string replace -rf '^ *"name": "([^"]*)".*' '$1' <$status_file
end

complete -c vlo -f
`;

export function fishScript(program: CommandPlace): string {
  return `${HEAD}${allCommands(program).map(linesOf).join('')}`;
}
