# The options of NixOS that our modules and hosts may set, with NixOS's own types. Nothing
# has an effect: a test reads what was set.
{ packagesFor }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  platform = config.nixpkgs.hostPlatform;
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  anything = option types.anything { };
  switch = option types.bool false;
  on = option types.bool true;
  texts = option (types.listOf types.str) [ ];
  packages = option (types.listOf types.package) [ ];
  free =
    options:
    types.submodule {
      freeformType = types.attrsOf types.anything;
      inherit options;
    };
  # A single date or a list of them, as `systemd.services.x.startAt`.
  dates = types.coercedTo types.str lib.singleton (types.listOf types.str);
in
{
  imports = [
    ./nixpkgs/nixos/modules/misc/assertions.nix
    ./nixpkgs/nixos/modules/misc/meta.nix
    ./nixos-systemd.nix
  ];

  config._module.args.pkgs =
    (packagesFor (platform.system or platform)).appendOverlays
      config.nixpkgs.overlays;
  # As there, what is asserted is asked when the whole machine is.
  config.system.build.toplevel =
    let
      failed = builtins.filter (one: !one.assertion) config.assertions;
      looked = {
        inherit (config.systemd) services sockets timers;
        inherit (config.nix) settings gc buildMachines;
        inherit (config.environment) etc systemPackages;
        inherit (config.users) users groups;
      };
    in
    if failed != [ ] then
      throw "Failed assertions:\n${lib.concatMapStringsSep "\n" (one: "- ${one.message}") failed}"
    else
      pkgs.runCommand "nixos-system-${config.networking.hostName}" { } (builtins.toJSON looked);

  options = {
    networking = {
      hostName = option types.str "nixos";
      nftables.enable = switch;
      firewall = {
        enable = on;
        trustedInterfaces = texts;
        allowedTCPPorts = option (types.listOf types.port) [ ];
        allowedUDPPorts = option (types.listOf types.port) [ ];
        interfaces = option (types.attrsOf (
          types.submodule {
            options = {
              allowedTCPPorts = option (types.listOf types.port) [ ];
              allowedUDPPorts = option (types.listOf types.port) [ ];
            };
          }
        )) { };
        checkReversePath = option (types.either types.bool (
          types.enum [
            "strict"
            "loose"
          ]
        )) true;
      };
      networkmanager.enable = switch;
      useNetworkd = switch;
      nameservers = texts;
      dhcpcd.enable = on;
      extraHosts = option types.lines "";
      resolvconf.enable = on;
    };

    nix = {
      enable = on;
      package = option types.package pkgs.nix;
      settings = option (free {
        substituters = texts;
        trusted-substituters = texts;
        trusted-public-keys = texts;
        trusted-users = option (types.listOf types.str) [ "root" ];
        allowed-users = option (types.listOf types.str) [ "*" ];
        experimental-features = texts;
        max-jobs = option (types.either types.int (types.enum [ "auto" ])) "auto";
        cores = option types.int 0;
        sandbox = option (types.either types.bool (types.enum [ "relaxed" ])) true;
        auto-optimise-store = switch;
        system-features = texts;
      }) { };
      gc = {
        automatic = switch;
        dates = option dates [ "03:15" ];
        options = option types.singleLineStr "";
        persistent = on;
        randomizedDelaySec = option types.singleLineStr "0";
      };
      optimise = {
        automatic = switch;
        dates = option dates [ "03:45" ];
        persistent = on;
        randomizedDelaySec = option types.singleLineStr "1800";
      };
      distributedBuilds = switch;
      buildMachines = option (types.listOf (
        types.submodule {
          options = {
            hostName = mkOption { type = types.str; };
            protocol = option (types.enum [
              null
              "ssh"
              "ssh-ng"
            ]) "ssh";
            system = option (types.nullOr types.str) null;
            systems = texts;
            sshUser = option (types.nullOr types.str) null;
            sshKey = option (types.nullOr types.str) null;
            maxJobs = option types.int 1;
            speedFactor = option types.int 1;
            mandatoryFeatures = texts;
            supportedFeatures = texts;
            publicHostKey = option (types.nullOr types.str) null;
          };
        }
      )) [ ];
      extraOptions = option types.lines "";
      nixPath = texts;
      registry = anything;
      channel.enable = on;
    };
    nixpkgs = {
      hostPlatform = option (types.either types.str types.attrs) "x86_64-linux";
      overlays = option (types.listOf types.unspecified) [ ];
      config = anything;
    };

    environment = {
      systemPackages = packages;
      pathsToLink = texts;
      extraInit = option types.lines "";
      variables = option (types.attrsOf (
        types.oneOf [
          (types.listOf types.str)
          types.str
          types.path
        ]
      )) { };
      sessionVariables = option (types.attrsOf (types.either types.str types.path)) { };
      shellAliases = option (types.attrsOf (types.nullOr (types.either types.str types.path))) { };
      etc = option (types.attrsOf (
        types.submodule (
          { name, ... }:
          {
            options = {
              enable = on;
              target = option types.str name;
              text = option (types.nullOr types.lines) null;
              source = option (types.nullOr types.path) null;
              mode = option types.str "symlink";
              user = option types.str "+0";
              group = option types.str "+0";
            };
          }
        )
      )) { };
    };

    users = {
      mutableUsers = on;
      allowNoPasswordLogin = switch;
      defaultUserShell = option (types.either types.path types.package) pkgs.bash;
      users = option (types.attrsOf (
        types.submodule (
          { name, config, ... }:
          {
            config = lib.mkIf config.isNormalUser {
              group = lib.mkDefault "users";
              home = lib.mkDefault "/home/${name}";
              createHome = lib.mkDefault true;
            };
            options = {
              name = option types.str name;
              description = option types.str "";
              uid = option (types.nullOr types.int) null;
              isSystemUser = switch;
              isNormalUser = switch;
              group = option types.str "";
              extraGroups = texts;
              home = option types.path "/var/empty";
              createHome = switch;
              homeMode = option types.str "700";
              shell = option (types.nullOr (types.either types.path types.package)) null;
              packages = packages;
              linger = switch;
              hashedPasswordFile = option (types.nullOr types.str) null;
              openssh.authorizedKeys.keys = option (types.listOf types.singleLineStr) [ ];
              openssh.authorizedKeys.keyFiles = option (types.listOf types.path) [ ];
            };
          }
        )
      )) { };
      groups = option (types.attrsOf (
        types.submodule {
          options = {
            gid = option (types.nullOr types.int) null;
            members = texts;
          };
        }
      )) { };
    };

    programs = {
      zsh.enable = switch;
      git = {
        enable = switch;
        config = anything;
      };
      ssh = {
        extraConfig = option types.lines "";
        knownHosts = anything;
      };
      nix-ld.enable = switch;
      bash.shellAliases = option (types.attrsOf types.str) { };
    };

    services = {
      tailscale = {
        enable = switch;
        package = option types.package pkgs.tailscale;
        port = option types.port 41641;
        interfaceName = option types.str "tailscale0";
        authKeyFile = option (types.nullOr types.path) null;
        authKeyParameters = {
          ephemeral = option (types.nullOr types.bool) null;
          preauthorized = option (types.nullOr types.bool) null;
          baseURL = option (types.nullOr types.str) null;
        };
        extraUpFlags = texts;
        extraSetFlags = texts;
        extraDaemonFlags = texts;
        openFirewall = switch;
        permitCertUid = option (types.nullOr types.nonEmptyStr) null;
        useRoutingFeatures = option (types.enum [
          "none"
          "client"
          "server"
          "both"
        ]) "none";
        disableTaildrop = switch;
        disableUpstreamLogging = switch;
      };
      syncthing = {
        enable = switch;
        package = option types.package pkgs.syncthing;
        user = option types.str "syncthing";
        group = option types.str "syncthing";
        dataDir = option types.path "/var/lib/syncthing";
        configDir = option types.path "${config.services.syncthing.dataDir}/.config/syncthing";
        guiAddress = option types.str "127.0.0.1:8384";
        openDefaultPorts = switch;
        overrideDevices = on;
        overrideFolders = on;
        settings = option (free { }) { };
        cert = option (types.nullOr types.str) null;
        key = option (types.nullOr types.str) null;
      };
      openssh = {
        enable = switch;
        openFirewall = on;
        ports = option (types.listOf types.port) [ 22 ];
        settings = option (free { }) { };
      };
      resolved = {
        enable = switch;
        settings = anything;
      };
      timesyncd.enable = on;
      journald.extraConfig = option types.lines "";
      logind.settings = anything;
      xserver.enable = switch;
      udev.enable = on;
      envfs = {
        enable = switch;
        extraFallbackPathCommands = option types.lines "";
      };
      power-profiles-daemon.enable = switch;
      tlp = {
        enable = switch;
        settings = anything;
      };
    };

    time.timeZone = option (types.nullOr types.str) null;
    i18n.defaultLocale = option types.str "en_US.UTF-8";
    boot = option (free { binfmt.registrations = anything; }) { };
    fileSystems = anything;
    swapDevices = option (types.listOf types.attrs) [ ];
    console = anything;
    fonts = {
      fontconfig.enable = on;
      packages = packages;
    };
    hardware = anything;
    powerManagement = {
      enable = on;
      cpuFreqGovernor = option (types.nullOr types.str) null;
    };
    zramSwap = {
      enable = switch;
      memoryPercent = option types.int 50;
    };
    security = {
      sudo.wheelNeedsPassword = on;
      polkit.enable = switch;
      wrappers = anything;
      pki.certificateFiles = option (types.listOf types.path) [ ];
    };
    system = {
      stateVersion = option types.str "26.05";
      activationScripts = option (types.attrsOf types.unspecified) { };
      userActivationScripts = option (types.attrsOf types.unspecified) { };
      build = option (types.lazyAttrsOf types.raw) { };
      autoUpgrade = anything;
      configurationRevision = option (types.nullOr types.str) null;
    };
    documentation = anything;
  };
}
