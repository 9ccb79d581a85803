# What cannot work, said before the machine is switched to it: each with what to write.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.build-server;
  addresses = import ./addresses.nix { inherit lib; };
  inherit (cfg) secrets settings user;
  inherit (settings) github listen;
  isSet = value: value != null && value != "" && value != [ ];
  takesWebhooks = github.webhook != false;
  isWsl = config.wsl.enable or false;

  # NixOS-WSL takes away the unit that loads the rules of iptables, not that of nftables.
  firewallWorks =
    config.networking.firewall.enable
    && (config.networking.nftables.enable || (config.systemd.services.firewall.enable or true));
  beyondLoopback =
    lib.optional (!addresses.isLoopback listen.private) "settings.listen.private = \"${listen.private}\""
    ++ lib.optional (
      cfg.harmonia.enable && !addresses.isLoopback "${cfg.listenAddress}:0"
    ) "the cache on \"${cfg.listenAddress}:${toString cfg.harmonia.port}\"";

  # Nix adds what stands under "extra-" to it; there it may also be words in one text.
  users =
    key: usual:
    config.nix.settings.${key} or usual
    ++ lib.concatMap (lib.splitString " ") (lib.toList (config.nix.settings."extra-${key}" or [ ]));
  trusted = users "trusted-users" [ ];
  allowed = users "allowed-users" [ "*" ];
  groups = [
    user
  ]
  ++ (config.users.users.${user}.extraGroups or [ ]);
  meant = names: lib.intersectLists names ([ "*" user ] ++ map (group: "@${group}") groups);

  stateDir = if settings.state_dir == null then "/var/lib/build-server" else settings.state_dir;
  secretPaths = lib.filter isSet (
    builtins.attrValues secrets
    ++ [
      github.token_file
      github.app_key_file
      settings.api.token_file
    ]
    ++ lib.toList github.webhook_secret_file
  );
  notNumeric = lib.filter (
    address: cfg.socketActivation && !addresses.isUnix address && !addresses.isNumeric address
  ) [ listen.public listen.private ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion =
          !takesWebhooks || isSet secrets.webhookSecretFile || isSet github.webhook_secret_file;
        message = ''services.build-server takes webhooks but has no secret to know them by. Write services.build-server.secrets.webhookSecretFile = "/run/secrets/webhook"; (a file with 16 characters or more, not in the store), or, to find commits by looking, services.build-server.settings.github.webhook = false;'';
      }
      {
        assertion = !isSet secrets.webhookSecretOldFile || isSet secrets.webhookSecretFile;
        message = "services.build-server.secrets.webhookSecretOldFile is the secret of before: write services.build-server.secrets.webhookSecretFile, the new one, too.";
      }
      {
        assertion = !(isSet secrets.webhookSecretOldFile && isSet github.webhook_secret_file);
        message = "services.build-server.settings.github.webhook_secret_file is set, so the credentials are not looked at: name both files there, [ new old ], and leave secrets.webhookSecretOldFile out.";
      }
      {
        assertion =
          !(isSet secrets.githubAppKeyFile || isSet github.app_key_file) || isSet github.app_id;
        message = ''services.build-server has the key of a GitHub App and not its id. Write services.build-server.settings.github.app_id = "123456"; too.'';
      }
      {
        assertion = !(isSet github.app_id && (isSet secrets.githubTokenFile || isSet github.token_file));
        message = "services.build-server has a GitHub App (settings.github.app_id) and a token (secrets.githubTokenFile). Keep one of the two.";
      }
      {
        assertion = addresses.isLoopback listen.public;
        message = ''services.build-server.settings.listen.public = "${listen.public}" can be reached from outside. Only Funnel shall lead there, and Funnel runs on this machine: write services.build-server.settings.listen.public = "127.0.0.1:8010";'';
      }
      {
        assertion = notNumeric == [ ];
        message = ''services.build-server.settings.listen: "${lib.head (notNumeric ++ [ "" ])}" has a name where systemd, which opens the listeners, wants a number. Write e.g. "127.0.0.1:8000", "[::]:8000" or "unix:/run/build-server/private.sock".'';
      }
      {
        assertion = beyondLoopback == [ ] || firewallWorks;
        message =
          "services.build-server would be open to every network of this machine (${lib.concatStringsSep ", " beyondLoopback}): "
          + (
            if isWsl && config.networking.firewall.enable then
              "NixOS-WSL switches the firewall's unit off. "
            else
              "the firewall is off. "
          )
          + "Write services.build-server.tailscaleServe.enable = true; (loopback, and the tailnet through tailscale serve), or services.build-server.listenAddress = \"127.0.0.1\";"
          + (
            if isWsl && config.networking.firewall.enable then
              ", or switch it on again with systemd.services.firewall.enable = lib.mkForce true;"
            else
              ", or networking.firewall.enable = true;"
          );
      }
      {
        assertion = !cfg.tailscaleServe.enable || config.services.tailscale.enable;
        message = "services.build-server.tailscaleServe lets the tailnet in through this machine's tailscaled, which is off. Write services.tailscale.enable = true; (inside the distribution, on WSL), or services.build-server.tailscaleServe.enable = false;";
      }
      {
        assertion = !cfg.tailscaleServe.enable || !addresses.isUnix listen.private;
        message = ''services.build-server.tailscaleServe needs an address with a port. Write services.build-server.settings.listen.private = "127.0.0.1:8000"; or services.build-server.tailscaleServe.enable = false;'';
      }
      {
        assertion = !cfg.funnel.enable || config.services.tailscale.enable;
        message = "services.build-server.funnel is Tailscale's. Write services.tailscale.enable = true; too (and services.tailscale.authKeyFile, so that the machine joins the tailnet by itself).";
      }
      {
        assertion = !cfg.funnel.enable || takesWebhooks;
        message = "services.build-server.funnel is open for webhooks, which settings.github.webhook = false refuses. Leave one of the two out.";
      }
      {
        assertion = !cfg.funnel.enable || !addresses.isUnix listen.public;
        message = ''services.build-server.funnel needs an address with a port. Write services.build-server.settings.listen.public = "127.0.0.1:8010";'';
      }
      {
        assertion =
          !(cfg.funnel.enable && isSet github.public_webhook_url)
          || lib.hasSuffix (
            (if cfg.funnel.port == 443 then "" else ":${toString cfg.funnel.port}") + cfg.funnel.path
          ) github.public_webhook_url;
        message = "services.build-server.settings.github.public_webhook_url = \"${toString github.public_webhook_url}\" is not where Funnel opens. Write \"https://NAME.TAILNET.ts.net${
          lib.optionalString (cfg.funnel.port != 443) ":${toString cfg.funnel.port}"
        }${cfg.funnel.path}\".";
      }
      {
        assertion =
          !(cfg.funnel.enable && cfg.tailscaleServe.enable) || cfg.funnel.port != cfg.tailscaleServe.port;
        message = "services.build-server.tailscaleServe.port is Funnel's port: everything on it would be public. Write services.build-server.tailscaleServe.port = 8000;";
      }
      {
        assertion = meant trusted == [ ];
        message = "nix.settings.trusted-users has ${lib.head (meant trusted ++ [ "" ])}, so Nix trusts ${user}: whoever can push would be root here. Take it out, e.g. nix.settings.trusted-users = [ \"root\" ];";
      }
      {
        assertion = meant allowed != [ ];
        message = ''nix.settings.allowed-users does not have ${user}, which builds with Nix. Write nix.settings.allowed-users = [ "${user}" … ]; with the others that you have there.'';
      }
      {
        assertion = (config.nix.settings.sandbox or true) == true;
        message = "nix.settings.sandbox = ${
          if config.nix.settings.sandbox == "relaxed" then ''"relaxed"'' else "false"
        } lets what others push build outside of Nix's sandbox, with this machine's files and network in reach. Take it out; it is true by itself.";
      }
      {
        assertion = config.nix.enable;
        message = "services.build-server builds with Nix, and nix.enable is false. Take that out.";
      }
      {
        assertion = lib.hasPrefix "/var/lib/" stateDir && !lib.hasInfix "/.." stateDir;
        message = ''services.build-server.settings.state_dir = "${stateDir}" is not below /var/lib, where systemd makes it for the service. Write a path there, and mount the other disk there if you have one: fileSystems."/var/lib/build-server" = { … };'';
      }
      {
        assertion = lib.all (path: !lib.hasPrefix "${stateDir}/" path) secretPaths;
        message = "services.build-server has a secret in ${stateDir}, which is backed up and read by its group. Write a path elsewhere, e.g. /etc/build-server-secrets/webhook.";
      }
    ];

    warnings =
      lib.optional
        (
          !isSet secrets.githubTokenFile
          && !isSet github.token_file
          && !isSet github.app_id
        )
        "services.build-server has no token for GitHub: it builds, and posts no statuses. Write services.build-server.secrets.githubTokenFile = \"/run/secrets/github-token\";"
      ++
        lib.optional (cfg.funnel.enable && !isSet github.public_webhook_url)
          "services.build-server.settings.github.public_webhook_url is not set, so the server cannot see whether Funnel works. Write \"https://NAME.TAILNET.ts.net${cfg.funnel.path}\", the address that you gave to GitHub.";
  };
}
