# The types that our NixOS modules share. A description ends Nix's "is not of type …", so it
# says what to write.
{ lib }:
let
  inherit (lib) types;
  # `description` in place of a pattern that nobody reads.
  matching = pattern: description: types.strMatching pattern // { inherit description; };
in
{
  # "build-server-1:" and the 32 bytes of an ed25519 key in base64.
  publicKey = matching "[^:[:space:]]+:[A-Za-z0-9+/]{43}=" ''
    public key of a binary cache, "NAME:BASE64" with 44 characters after the colon, the
    content of the public file of the pair, e.g. "build-server-1:AAAA…AAA="'';

  keyName = matching "[A-Za-z0-9._-]+" ''name of a key, of letters, digits, ".", "_" and "-", e.g. "build-server-1"'';

  # Every user of a machine can read its store; and a path without quotes is copied there.
  secretFile = types.mkOptionType {
    name = "secretFile";
    description = ''
      absolute path of a file outside the Nix store, in quotes: "/run/secrets/webhook"
      (without quotes Nix would copy the secret into its store, which everybody can read)'';
    descriptionClass = "noun";
    check =
      value:
      builtins.isString value
      && lib.hasPrefix "/" value
      && !lib.hasInfix "\n" value
      && !lib.hasPrefix "${builtins.storeDir}/" value
      && !builtins.hasContext value;
    merge = lib.mergeEqualOption;
  };

  serverAddress =
    matching "https?://[^/?#@[:space:]\"]+/?|unix:/[^[:space:]\"]+"
      ''address of a build server, "http://HOST:PORT", "https://HOST" or "unix:/PATH", e.g. "http://build-server:8000"'';

  cacheUrl =
    matching "(https?|file|ssh|ssh-ng|s3)://[^[:space:]\"]+"
      ''address of a binary cache, e.g. "http://build-server:5000"'';

  ipAddress =
    matching "[0-9]{1,3}([.][0-9]{1,3}){3}|\\[[0-9A-Fa-f:.]+]"
      ''numeric address, IPv6 in brackets: "127.0.0.1", "0.0.0.0", "[::1]" or "[::]"'';

  duration =
    types.either types.numbers.positive (
      types.strMatching "([0-9]+([.][0-9]+)?(ms|s|m|h|d) *)+|never"
    )
    // {
      description = ''duration such as "45s", "20m", "2h" or "1h30m", or a number of seconds'';
    };

  size =
    types.either types.ints.unsigned (types.strMatching "[0-9]+([.][0-9]+)? *([KMGTkmgt]i?)?[Bb]")
    // {
      description = ''size such as "64MiB" or "10GB", or a number of bytes'';
    };
}
