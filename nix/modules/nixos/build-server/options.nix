# The options of services.build-server, but for `settings` (settings.nix) and those that
# belong to one part (harmonia.nix, funnel.nix, tailnet.nix, nix.nix).
{
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  ours = import ../types.nix { inherit lib; };
  secret =
    what:
    mkOption {
      type = types.nullOr ours.secretFile;
      default = null;
      description = ''
        File with ${what}, readable for root alone is enough: systemd hands a copy to the
        service (`LoadCredential=`). After a change: `systemctl reload build-server`; before
        systemd 260, `restart`.
      '';
    };
in
{
  options.services.build-server = {
    enable = lib.mkEnableOption "build-server, which builds what is pushed to GitHub";

    package = mkOption {
      type = types.package;
      default = pkgs.build-server or (import ../../../packages { inherit pkgs; }).build-server;
      defaultText = lib.literalExpression "pkgs.build-server";
      description = "The server's package.";
    };

    user = mkOption {
      type = types.strMatching "[a-z_][a-z0-9_-]*" // {
        description = ''name of a user, of lower case letters, digits, "_" and "-"'';
      };
      default = "build-server";
      description = ''
        User, and group, that the service runs as. It is made here; Nix must not trust it
        (`nix.settings.trusted-users`), because it runs what others push.
      '';
    };

    path = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = lib.literalExpression "[ pkgs.gnumake ]";
      description = ''Programs for repositories with `builder = "command"`, found on their PATH.'';
    };

    secrets = {
      webhookSecretFile = secret "the webhook's secret, 16 characters or more";
      webhookSecretOldFile = secret "the webhook's secret of before, while it is being changed";
      githubTokenFile = secret "a fine-grained token of GitHub (contents: read, commit statuses: write)";
      githubAppKeyFile = secret "the private key (PEM) of a GitHub App, with `settings.github.app_id`";
      apiTokenFile = secret "a token that every POST to the private address must bring";
      notifyUrlsFile = secret "the addresses that messages go to, URLs of Apprise, one per line";
    };
  };
}
