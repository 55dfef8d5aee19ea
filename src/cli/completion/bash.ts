/**
 * The script for bash. It needs bash alone: the package bash-completion may not be there. One table
 * answers all questions; the function around it finds the command and the place of the cursor.
 */
import { allCommands, type CommandPlace, type ValuePlace } from './tree.js';
import type { Values } from './values.js';

/** Words of the table; what a shell finds by itself begins with @. */
function wordsOf(values: Values): string {
  return typeof values === 'string' ? `@${values}` : values.join(' ');
}

/** Single quotes keep all of a text from the shell. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** The places of a command by what they take, each as a pattern of `case`. */
function placesOf({ options, values }: CommandPlace): Map<string, string[]> {
  const places = new Map<string, string[]>();
  const add = (pattern: string, place: ValuePlace): void => {
    const words = `${wordsOf(place.values)}${place.isVariadic ? ' @more' : ''}`;
    places.set(words, [...(places.get(words) ?? []), pattern]);
  };
  for (const [index, place] of values.entries()) {
    add(place.isVariadic ? '[0-9]*' : String(index), place);
  }
  for (const { flags, value } of options) {
    if (value !== null) for (const flag of flags) add(flag, value);
  }
  return places;
}

function entryOf(command: CommandPlace): string {
  const commands = command.commands.map(({ path }) => path.at(-1));
  const options = command.options.flatMap(({ flags }) => flags);
  const places = [...placesOf(command)].map(
    ([words, patterns]) => `    ${patterns.join(' | ')}) values=${quoted(words)} ;;\n`,
  );
  return [
    `  ${quoted(command.path.join(' '))})\n`,
    `    commands=${quoted(commands.join(' '))}\n`,
    `    options=${quoted(options.join(' '))}\n`,
    places.length === 0 ? '' : `    case $2 in\n${places.join('')}    esac\n`,
    '    ;;\n',
  ].join('');
}

const HEAD = `# Completion of vlo for bash: source <(vlo completion bash)

# What a command ($1) takes, and what stands in a place of it ($2): after an option, or as the
# argument of a number.
_vlo_look() {
  commands='' options='' values=''
  case $1 in
`;

const BODY = `  esac
}

# Names of the devices of a running HAL, whose run directory is $1. Nothing else gets through:
# compgen evaluates words as a shell does.
_vlo_devices() {
  local line
  [[ -r $1/status.json ]] || return
  while read -r line; do
    [[ $line =~ ^'"name": "'([A-Za-z0-9_-]+)'"' ]] && printf '%s\\n' "\${BASH_REMATCH[1]}"
  done <"$1/status.json"
}

# Sets COMPREPLY to those of the values $1 that begin with $2; $3 is put in front of each.
_vlo_reply() {
  local kind=$1
  case \${kind%% *} in
  @any) ;;
  @file | @folder)
    # Where nothing is found, as behind an open quote, bash looks by itself.
    compopt -o filenames -o bashdefault -o default 2>/dev/null
    [[ $kind == @folder* ]] && kind=-d || kind=-f
    mapfile -t COMPREPLY < <(compgen -P "$3" "$kind" -- "$2") ;;
  @device) mapfile -t COMPREPLY < <(compgen -P "$3" -W "$(_vlo_devices "$directory")" -- "$2") ;;
  *) mapfile -t COMPREPLY < <(compgen -P "$3" -W "\${kind% @more}" -- "$2") ;;
  esac
}

_vlo() {
  local command=vlo current=\${COMP_WORDS[COMP_CWORD]} pending='' flag='' number=0 only=''
  local directory=\${XDG_RUNTIME_DIR-}/vlo at word commands options values IFS=$' \\t\\n'
  COMPREPLY=()
  ((EUID == 0)) && directory=/run/vlo
  for ((at = 1; at < COMP_CWORD; at++)); do
    word=\${COMP_WORDS[at]}
    if [[ -n $pending && $word == '=' ]]; then continue; fi # bash cuts --option=value in three.
    if [[ -n $pending && ! ($pending == *@more && $word == -*) ]]; then
      [[ $flag == --run-dir ]] && directory=\${word/#\\~\\//$HOME/}
      [[ $pending == *@more ]] || pending=''
      continue
    fi
    pending=''
    if [[ -z $only && $word == -- ]]; then
      only=1
    elif [[ -z $only && $word == -?* ]]; then
      _vlo_look "$command" "$word"
      pending=$values flag=$word
    else
      _vlo_look "$command" ''
      if [[ " $commands " == *" $word "* ]]; then command+=" $word"; else number=$((number + 1)); fi
    fi
  done
  [[ $current == '=' ]] && current=''
  if [[ -n $pending && ! ($pending == *@more && $current == -*) ]]; then
    _vlo_reply "$pending" "$current" ''
  elif [[ -z $only && $current == --*=* ]]; then
    _vlo_look "$command" "\${current%%=*}"
    _vlo_reply "$values" "\${current#*=}" "\${current%%=*}="
  elif [[ -z $only && $current == -* ]]; then
    _vlo_look "$command" ''
    _vlo_reply "$options" "$current" ''
  else
    _vlo_look "$command" "$number"
    ((number == 0)) && values=\${commands:-$values}
    _vlo_reply "$values" "$current" ''
  fi
}

complete -F _vlo vlo
`;

export function bashScript(program: CommandPlace): string {
  return `${HEAD}${allCommands(program).map(entryOf).join('')}${BODY}`;
}
