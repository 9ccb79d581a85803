# What is in an address of `settings.listen`: "127.0.0.1:8010", "[::1]:8010", "unix:/path".
{ lib }:
rec {
  isUnix = lib.hasPrefix "unix:";
  parts = address: builtins.match "(.*):([0-9]{1,5})" address;
  # "[::1]" of "[::1]:8010"; the whole of what has no port.
  hostOf = address: if parts address == null then address else lib.head (parts address);
  # As a number; null of a socket file.
  portOf =
    address:
    if isUnix address || parts address == null then null else lib.toIntBase10 (lib.last (parts address));
  # Where this machine reaches a listener on that host: one on every address on loopback.
  reach =
    host:
    if
      builtins.elem host [
        "0.0.0.0"
        "[::]"
        "localhost"
      ]
    then
      "127.0.0.1"
    else
      host;
  isNumeric = address: builtins.match "[0-9.]+|\\[[0-9A-Fa-f:.]+]" (hostOf address) != null;
  isLoopback =
    address:
    isUnix address
    || lib.hasPrefix "127." (hostOf address)
    || builtins.elem (hostOf address) [
      "[::1]"
      "localhost"
    ];
}
