# The options of NixOS-WSL that a machine sets, and what it does to the machine that our
# modules must reckon with. The real modules are used instead where they are at hand.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  free =
    options:
    option (types.submodule {
      freeformType = types.attrsOf types.anything;
      inherit options;
    }) { };
  cfg = config.wsl;
  generated = cfg.wslConf.network.generateResolvConf;
in
{
  options.wsl = {
    enable = lib.mkEnableOption "NixOS as a WSL distribution";
    defaultUser = option types.str "nixos";
    startMenuLaunchers = option types.bool false;
    useWindowsDriver = option types.bool false;
    docker-desktop.enable = option types.bool false;
    interop = {
      register = option types.bool false;
      includePath = option types.bool true;
    };
    usbip.enable = option types.bool false;
    extraBin = option (types.listOf types.attrs) [ ];
    wslConf = free {
      automount = free {
        enabled = option types.bool true;
        root = option (types.strMatching "^/(.*[^/])?$") "/mnt";
        options = option types.commas "metadata,uid=1000,gid=100";
      };
      boot = free {
        command = option types.str "";
        systemd = option types.bool true;
      };
      interop = free {
        enabled = option types.bool true;
        appendWindowsPath = option types.bool true;
      };
      network = free {
        generateHosts = option types.bool true;
        generateResolvConf = option types.bool true;
        hostname = option types.str config.networking.hostName;
      };
      user = free { default = option types.str "root"; };
    };
  };

  config = lib.mkIf cfg.enable {
    wsl.wslConf.user.default = lib.mkDefault cfg.defaultUser;
    systemd.services.firewall.enable = false;
    systemd.oomd.enable = lib.mkDefault false;
    services.timesyncd.enable = false;
    powerManagement.enable = false;
    security.sudo.wheelNeedsPassword = lib.mkDefault false;
    networking.resolvconf.enable = lib.mkIf generated false;
    users.users.${cfg.defaultUser} = {
      isNormalUser = true;
      uid = lib.mkDefault 1000;
      extraGroups = [ "wheel" ];
    };
    warnings =
      lib.optional (config.services.resolved.enable && generated)
        "systemd-resolved is enabled, but resolv.conf is managed by WSL (wsl.wslConf.network.generateResolvConf)"
      ++
        lib.optional
          (config.networking.nameservers == [ ] && !config.services.resolved.enable && !generated)
          "resolv.conf generation is turned off (wsl.wslConf.network.generateResolvConf), but no other nameservers are configured (networking.nameservers)";
  };
}
