# services.bootstrap-services: what runs on every machine of one person. Syncthing with
# folders that have defaults, and as much of Tailscale as a home can have: the daemon is the
# machine's (nix/modules/nixos/bootstrap-services.nix).
{
  config,
  lib,
  osConfig,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.services.bootstrap-services;
  sync = cfg.syncthing;
  ours = import ../nixos/types.nix { inherit lib; };
  json = pkgs.formats.json { };
  prefix = "services.bootstrap-services.syncthing";

  quoted = lib.concatMapStringsSep ", " (name: "\"${name}\"");
  # As an attribute of a path that people write.
  attribute = lib.strings.escapeNixIdentifier;

  deviceId = types.strMatching "([A-Z2-7]{7}-){7}[A-Z2-7]{7}" // {
    description = ''
      ID of a Syncthing device, eight groups of seven letters and digits, as
      `syncthing --device-id` shows it on that machine'';
    descriptionClass = "noun";
  };
  folderPath = types.strMatching "(/|~/).*" // {
    description = ''path that begins with "/" or "~/", in quotes: "~/Documents"'';
    descriptionClass = "noun";
  };

  device = types.submodule {
    freeformType = json.type;
    options.id = mkOption {
      type = deviceId;
      description = "The ID that the device shows of itself.";
    };
  };

  # null is "not said": the default's value holds.
  unsaid =
    type: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };
  folder = types.submodule {
    freeformType = json.type;
    options = {
      enable = unsaid types.bool "Whether this machine has the folder. Not said: yes.";
      path = unsaid folderPath "Where it is on this machine.";
      devices = unsaid (types.listOf types.str) "With which of `devices` it is shared, by name.";
    };
  };
  folders =
    description: example:
    mkOption {
      type = types.attrsOf folder;
      default = { };
      inherit description example;
    };

  said = lib.filterAttrs (_: value: value != null);
  all = lib.recursiveUpdate (lib.mapAttrs (_: said) sync.defaultFolders) (
    lib.mapAttrs (_: said) sync.folders
  );
  # What stands in `folders` is there unless it says otherwise itself.
  wanted = lib.filterAttrs (
    name: one:
    if sync.folders ? ${name} then
      (said sync.folders.${name}).enable or true
    else
      one.enable or true
  ) all;
  others = lib.remove sync.thisDevice;
  known = name: sync.devices ? ${name};
  # By whom a folder's devices were named: those of a default are suggestions, for who has
  # such machines; those that you wrote have to be there.
  byYou = name: (sync.folders.${name} or { devices = null; }).devices != null;

  ownFolder = name: byYou name || !(sync.defaultFolders ? ${name});

  shared = lib.filterAttrs (name: one: ownFolder name || one.devices != [ ]) (
    lib.mapAttrs (
      _: one: one // { devices = lib.filter known (others (one.devices or [ ])); }
    ) wanted
  );
  pathless = lib.filter (name: !(wanted.${name} ? path)) (lib.attrNames wanted);
  unknownOf = name: lib.filter (one: !known one) (others wanted.${name}.devices);
  unknown = lib.filter (name: byYou name && unknownOf name != [ ]) (lib.attrNames wanted);

  # An ID that was copied twice.
  alike = lib.filter (names: lib.length names > 1) (
    lib.attrValues (lib.groupBy (name: sync.devices.${name}.id) (lib.attrNames sync.devices))
  );

  tailscaled = osConfig != null && osConfig.services.tailscale.enable;
  machineHasKey = tailscaled && osConfig.services.tailscale.authKeyFile != null;
  forNixos = "services.bootstrap-services.tailscale.enable = true;";
  up = "sudo tailscale up${
    lib.optionalString (
      cfg.tailscale.authKeyFile != null
    ) " --auth-key=${lib.escapeShellArg "file:${cfg.tailscale.authKeyFile}"}"
  }";
in
{
  imports = [
    (lib.mkRemovedOptionModule
      [
        "services"
        "bootstrap-services"
        "tailscale"
        "authKey"
      ]
      ''A key that stands in the configuration can be read by everybody, in the Nix store. Put it into a file and write services.bootstrap-services.tailscale.authKeyFile = "/run/secrets/tailscale";''
    )
  ];

  options.services.bootstrap-services = {
    syncthing = {
      enable = lib.mkEnableOption "Syncthing, with the folders below";

      defaultFolders = folders ''
        Folders that every machine has if nothing else is said: `documents` and `dotfiles`,
        and more from a profile. They are shared with those of their devices that `devices`
        knows, and left out while it knows none of them.
      '' { documents.path = "~/Documents"; };

      folders = folders ''
        This machine's own folders, and changes to the defaults: what is said here about a
        folder holds, everything else stays. A folder that stands here is switched on. Its
        devices have to be in `devices`. Everything that `services.syncthing.settings.folders`
        knows can be said.
      '' {
        photos = {
          path = "/mnt/external/photos";
          devices = [ "desktop" ];
        };
        documents.path = "/custom/docs";
      };

      everyFolder = mkOption {
        inherit (json) type;
        default = { };
        example = {
          rescanIntervalS = 3600;
        };
        description = "Settings for each folder that does not say otherwise itself.";
      };

      devices = mkOption {
        type = types.attrsOf (types.coercedTo types.str (id: { inherit id; }) device);
        default = { };
        example = {
          desktop = "7CFNTQM-IMTJBHJ-3UWRDIU-ZGQJFR6-VCXZ3NB-XUH3KZO-N52ITXR-LAIYUAU";
        };
        description = ''
          The other machines and their IDs. `{ id = "…"; addresses = [ … ]; }` says more about
          one, all that `services.syncthing.settings.devices` knows.
        '';
      };

      thisDevice = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "laptop";
        description = ''
          The name that folders give to this machine. It is left out of their devices here, so
          that all machines can have the same folders.
        '';
      };
    };

    tailscale = {
      enable = lib.mkEnableOption ''
        Tailscale, as far as a home can have it: a note when the machine's daemon is missing,
        and the tray. The daemon is switched on by the NixOS module of the same name
      '';

      authKeyFile = mkOption {
        type = types.nullOr ours.secretFile;
        default = null;
        example = "/run/secrets/tailscale";
        description = ''
          File with the key that this machine joins the tailnet with. Only root can use it: on
          NixOS write it there as well; elsewhere it is in the command that is suggested.
        '';
      };

      tray = mkOption {
        type = types.bool;
        default = false;
        description = "Whether Tailscale's icon is in the tray of the desktop.";
      };
    };
  };

  config = lib.mkMerge [
    {
      services.bootstrap-services.syncthing.defaultFolders = {
        documents = {
          path = mkDefault "~/Documents";
          devices = mkDefault [
            "laptop"
            "desktop"
          ];
        };
        # Not ~/.config: what home-manager puts there are links into this machine's store.
        dotfiles = {
          path = mkDefault "~/dotfiles";
          devices = mkDefault [
            "laptop"
            "desktop"
            "server"
          ];
        };
      };
    }

    (lib.mkIf sync.enable {
      services.syncthing = {
        enable = mkDefault true;
        settings = {
          devices = lib.filterAttrs (name: _: name != sync.thisDevice) sync.devices;
          folders = lib.mapAttrs (
            _: one: sync.everyFolder // removeAttrs one [ "enable" ]
          ) (removeAttrs shared pathless);
          # Not asked at the first start; nothing is reported.
          options.urAccepted = mkDefault (-1);
        };
      };

      assertions =
        map (name: {
          assertion = false;
          message = "${prefix}.folders.${attribute name} has no path. Write ${prefix}.folders.${attribute name}.path = \"~/${name}\";";
        }) pathless
        ++ lib.concatMap (
          name:
          map (missing: {
            assertion = false;
            message =
              "${prefix}.folders.${attribute name} is shared with \"${missing}\", which is none of the devices (${
                if sync.devices == { } then "there are none" else quoted (lib.attrNames sync.devices)
              }). "
              + "Write ${prefix}.devices.${attribute missing} = \"…\"; with what `syncthing --device-id` shows there, or take \"${missing}\" out of ${prefix}.folders.${attribute name}.devices.";
          }) (unknownOf name)
        ) unknown
        ++ map (names: {
          assertion = false;
          message = "${prefix}.devices: ${quoted names} have one ID. Write for each what `syncthing --device-id` shows there.";
        }) alike
        ++ [
          {
            assertion = shared != { } || unknown != [ ] || pathless != [ ];
            message = "${prefix} shares nothing: ${
              if wanted == { } then
                "no folder is switched on. Write ${prefix}.folders.documents.enable = true;"
              else
                "none of the machines that its folders (${quoted (lib.attrNames wanted)}) are for is among the devices. Write ${prefix}.devices.desktop = \"…\"; with what `syncthing --device-id` shows there"
            }, or ${prefix}.enable = false;";
          }
          {
            assertion = osConfig == null || !osConfig.services.syncthing.enable;
            message = "Syncthing would run twice, in NixOS and in this home, on the same ports. Write services.syncthing.enable = false; in the NixOS configuration, or ${prefix}.enable = false; here.";
          }
        ];
    })

    (lib.mkIf cfg.tailscale.enable {
      services.tailscale-systray.enable = lib.mkIf cfg.tailscale.tray (mkDefault true);
      # The tray waits for it, and only some desktops of home-manager's bring it.
      systemd.user.targets.tray.Unit = lib.mkIf cfg.tailscale.tray {
        Description = mkDefault "Home Manager System Tray";
        Requires = mkDefault [ "graphical-session-pre.target" ];
      };

      # A home knows nothing of the machine that it is on before it is switched to.
      home.activation.tailscale = lib.mkIf (osConfig == null) (
        lib.hm.dag.entryAfter [ "writeBoundary" ] ''
          if [ ! -S "''${TAILSCALED_SOCKET:-/run/tailscale/tailscaled.sock}" ]; then
            noteEcho "Tailscale does not run on this machine, and home-manager cannot start it."
            echo "On NixOS write in the machine's configuration, with nixosModules.default:"
            echo "  ${forNixos}"
            echo "Elsewhere install it from https://tailscale.com/download and run:"
            echo ${lib.escapeShellArg "  ${up}"}
          fi
        ''
      );

      assertions = lib.optionals (osConfig != null) [
        {
          assertion = tailscaled;
          message = "services.bootstrap-services.tailscale is on in this home, and the machine has no Tailscale: home-manager has no daemon for it. Write in the NixOS configuration, with nixosModules.default: ${forNixos}";
        }
        {
          assertion = !tailscaled || cfg.tailscale.authKeyFile == null || machineHasKey;
          message = "services.bootstrap-services.tailscale.authKeyFile has no effect in a home: only root may use the key. Write in the NixOS configuration services.tailscale.authKeyFile = \"${toString cfg.tailscale.authKeyFile}\";";
        }
      ];
    })
  ];
}
