# What NixOS gives its modules as `utils`, as far as ours and home-manager's ask for it.
{ lib }:
rec {
  toShellPath = shell: if lib.isAttrs shell then "${shell}${shell.shellPath or "/bin/sh"}" else shell;
  # "/mnt/my-disk" -> "mnt-my\\x2ddisk"
  escapeSystemdPath =
    path:
    lib.replaceStrings [ "-" "/" ] [ "\\x2d" "-" ] (
      if path == "/" then path else lib.removePrefix "/" (lib.removeSuffix "/" path)
    );
  # One word of ExecStart=, safe from systemd's own % and $.
  escapeSystemdExecArg =
    word:
    lib.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON (toString word));
  escapeSystemdExecArgs = lib.concatMapStringsSep " " escapeSystemdExecArg;
}
