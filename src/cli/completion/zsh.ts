/** The script for zsh: a function for each command, in the words of zsh's own `_arguments`. */
import { allCommands, type CommandPlace, type OptionPlace, type ValuePlace } from './tree.js';

/** Single quotes keep all of a text from the shell. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
/** A text inside of a specification of `_arguments`. */
const plain = (text: string): string => text.replace(/[\\[\]:]/g, '\\$&');

const functionOf = ({ path }: CommandPlace): string =>
  path.length === 1 ? '_vlo_program' : `_${path.join('_').replaceAll('-', '_')}`;

/** `:name:action`, as it follows an option or stands for an argument. */
function actionOf({ name, values }: ValuePlace): string {
  const actions = { file: '_files', folder: '_files -/', device: '_vlo_devices', any: ' ' };
  const action = typeof values === 'string' ? actions[values] : `(${values.join(' ')})`;
  return `:${plain(name)}:${action}`;
}

function optionOf({ flags, summary, value }: OptionPlace): string {
  const rest = `[${plain(summary)}]${value === null ? '' : actionOf(value)}`;
  // Help and version stand alone.
  const isAlone = flags.some((flag) => flag === '--help' || flag === '--version');
  const excluded = isAlone ? '(- *)' : value?.isVariadic === true ? '*' : `(${flags.join(' ')})`;
  // A value stands in the same word or in the next: -bFILE, -b FILE, --blk-file=FILE.
  const forms = flags.map((flag) =>
    value === null ? flag : flag.startsWith('--') ? `${flag}=` : `${flag}+`,
  );
  if (forms.length === 1) return quoted(`${excluded}${forms[0]}${rest}`);
  return `${quoted(excluded)}{${forms.join(',')}}${quoted(rest)}`;
}

function argumentOf(place: ValuePlace, index: number): string {
  return quoted(`${place.isVariadic ? '*' : index + 1}${actionOf(place)}`);
}

function bodyOf(command: CommandPlace): string {
  const options = command.options.map(optionOf);
  const list = (specs: readonly string[]): string => specs.map((s) => ` \\\n    ${s}`).join('');
  if (command.commands.length === 0) {
    return `  _arguments -S${list([...options, ...command.values.map(argumentOf)])}\n`;
  }
  const names = command.commands.map(({ path, summary }) =>
    quoted(`${path.at(-1)}:${summary.replaceAll('\\', '\\\\')}`),
  );
  const cases = command.commands.map(
    (child) => `    ${child.path.at(-1)}) ${functionOf(child)} ;;\n`,
  );
  return `  local context state state_descr line
  local -a commands
  typeset -A opt_args
  _arguments -C -S${list([...options, quoted('1: :->command'), quoted('*:: :->words')])} && return
  case $state in
  command)
    commands=(${names.map((name) => `\n      ${name}`).join('')}
    )
    _describe command commands
    ;;
  words)
    case $words[1] in
${cases.join('')}    esac
    ;;
  esac
`;
}

const HEAD = `#compdef vlo
# Completion of vlo for zsh: source <(vlo completion zsh), after compinit; or this text as a file
# _vlo in a folder of $fpath.

# Names of the devices of a running HAL.
_vlo_devices() {
  local directory=\${XDG_RUNTIME_DIR-}/vlo line
  local -a names
  ((EUID == 0)) && directory=/run/vlo
  [[ -n \${opt_args[--run-dir]-} ]] && directory=\${~opt_args[--run-dir]}
  [[ -r $directory/status.json ]] || return 1
  while read -r line; do
    [[ $line == '"name": "'* ]] && names+=(\${\${line#*: \\"}%%\\"*})
  done <$directory/status.json
  compadd -a names
}

`;

// A file of $fpath is run as the function itself; what is sourced tells the shell of it.
const TAIL = `_vlo() {
  _vlo_program "$@"
}

if [[ $funcstack[1] == _vlo ]]; then _vlo "$@"; else compdef _vlo vlo; fi
`;

export function zshScript(program: CommandPlace): string {
  const functions = allCommands(program).map(
    (command) => `${functionOf(command)}() {\n${bodyOf(command)}}\n\n`,
  );
  return `${HEAD}${functions.join('')}${TAIL}`;
}
