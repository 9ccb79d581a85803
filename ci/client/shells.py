"""What a shell needs to complete our commands: it asks `build-client __complete`.

The scripts know neither verbs nor options, so they fit any version of the client.
"""

from __future__ import annotations

NAMES = "build-client build-trigger build-status build-logs bt bs bl"

_BASH = r"""# Completion of build-client, bt, bs and bl in bash:
#   eval "$(build-client completion bash)"
_build_client() {
  local line=${COMP_LINE:0:COMP_POINT} typed=${COMP_WORDS[COMP_CWORD]} before='' word value
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  word=${words[${#words[@]} - 1]}
  # To bash a word ends at `=` and `:`, and what stands before those stays as it is.
  [[ $typed == [=:] ]] && typed=''
  [[ $word == *"$typed" ]] && before=${word%"$typed"}
  COMPREPLY=()
  while IFS=$'\t' read -r value _; do
    value=${value#"$before"}
    # Branches are named by whoever pushes: a name must not become a command.
    [[ -n $value ]] && printf -v value %q "$value" && COMPREPLY+=("$value")
  done < <(build-client __complete "${words[@]}" 2>/dev/null)
}
complete -o nosort -F _build_client @NAMES@ 2>/dev/null ||
  complete -F _build_client @NAMES@
"""

_ZSH = r"""#compdef @NAMES@
# Completion of build-client, bt, bs and bl in zsh, after compinit:
#   source <(build-client completion zsh)
_build_client() {
  local line
  local -a lines values shown
  lines=("${(@f)$(build-client __complete "${(@Q)words[1,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
  for line in "${lines[@]}"; do
    [[ -n $line ]] || continue
    values+=("${line%%$'\t'*}")
    line=${line%$'\t'}
    shown+=("${line/$'\t'/  -- }")
  done
  (( $#values )) && compadd -V builds -l -d shown -a values
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _build_client "$@"
else
  compdef _build_client @NAMES@
fi
"""

_FISH = r"""# Completion of build-client, bt, bs and bl in fish:
#   build-client completion fish | source
function __build_client_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    build-client __complete $words "$current" 2>/dev/null
end
for name in @NAMES@
    complete -c $name -f -k -a '(__build_client_complete)'
end
"""

SCRIPTS = {
    shell: script.replace("@NAMES@", NAMES)
    for shell, script in (("bash", _BASH), ("zsh", _ZSH), ("fish", _FISH))
}
