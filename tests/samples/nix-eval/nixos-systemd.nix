# systemd's units as NixOS declares them: names of units are checked, a setting is one value
# or a list of lines, and `script` becomes ExecStart.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  texts = option (types.listOf types.str) [ ];
  kinds = "service|socket|device|mount|automount|swap|target|path|timer|scope|slice";
  unitNames = option (types.listOf (types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](${kinds})")) [ ];

  # Several definitions of one setting: lists are joined, single values must be equal.
  setting = lib.mkOptionType {
    name = "systemd option";
    merge =
      loc: defs:
      let
        kept = lib.filterOverrides defs;
        repeated = builtins.isList (builtins.head kept).value;
      in
      if lib.any (def: builtins.isList def.value != repeated) kept then
        throw "${lib.showOption loc} is given both as a list and as a single value"
      else if repeated then
        lib.concatMap (def: def.value) kept
      else
        lib.mergeEqualOption loc kept;
  };
  section = option (types.attrsOf setting) { };
  oneOf =
    name: known: settings:
    !(builtins.isString (settings.${name} or null)) || builtins.elem settings.${name} known;
  knownService =
    settings:
    oneOf "Type" [
      "exec"
      "simple"
      "forking"
      "oneshot"
      "dbus"
      "notify"
      "notify-reload"
      "idle"
    ] settings
    && oneOf "Restart" [
      "no"
      "on-success"
      "on-failure"
      "on-abnormal"
      "on-abort"
      "on-watchdog"
      "always"
    ] settings;
  dates = types.coercedTo types.str lib.singleton (types.listOf types.str);

  common = {
    enable = option types.bool true;
    overrideStrategy = option (types.enum [
      "asDropinIfExists"
      "asDropin"
    ]) "asDropinIfExists";
    description = option types.singleLineStr "";
    documentation = texts;
    requires = unitNames;
    wants = unitNames;
    upholds = unitNames;
    after = unitNames;
    before = unitNames;
    bindsTo = unitNames;
    partOf = unitNames;
    conflicts = unitNames;
    requisite = unitNames;
    onSuccess = unitNames;
    onFailure = unitNames;
    wantedBy = unitNames;
    requiredBy = unitNames;
    upheldBy = unitNames;
    aliases = unitNames;
    # There without a default; here null, so that a whole unit can be looked at.
    startLimitBurst = option (types.nullOr types.int) null;
    startLimitIntervalSec = option (types.nullOr types.int) null;
    restartTriggers = option (types.listOf types.unspecified) [ ];
    reloadTriggers = option (types.listOf types.unspecified) [ ];
    unitConfig = section;
  };
  units = more: option (types.attrsOf (types.submodule ([ { options = common; } ] ++ more))) { };

  service =
    { name, config, ... }:
    let
      script = phase: text: "${pkgs.writeShellScriptBin "${name}-${phase}" text}/bin/${name}-${phase}";
      whenSet = text: lib.mkIf (text != "");
    in
    {
      options = {
        environment = option (types.attrsOf (
          types.nullOr (
            types.oneOf [
              types.str
              types.path
              types.package
            ]
          )
        )) { };
        path = option (types.listOf (
          types.oneOf [
            types.package
            types.str
          ]
        )) [ ];
        serviceConfig = option (types.addCheck (types.attrsOf setting) knownService) { };
        enableStrictShellChecks = option types.bool false;
        script = option types.lines "";
        scriptArgs = option types.str "";
        preStart = option types.lines "";
        postStart = option types.lines "";
        reload = option types.lines "";
        preStop = option types.lines "";
        postStop = option types.lines "";
        restartIfChanged = option types.bool true;
        reloadIfChanged = option types.bool false;
        stopIfChanged = option types.bool true;
        notSocketActivated = option types.bool false;
        startAt = option dates [ ];
      };
      config.serviceConfig = lib.mkMerge [
        (whenSet config.preStart { ExecStartPre = [ (script "pre-start" config.preStart) ]; })
        (whenSet config.script {
          ExecStart = "${script "start" config.script} ${config.scriptArgs}";
        })
        (whenSet config.postStart { ExecStartPost = [ (script "post-start" config.postStart) ]; })
        (whenSet config.reload { ExecReload = script "reload" config.reload; })
        (whenSet config.preStop { ExecStop = script "pre-stop" config.preStop; })
        (whenSet config.postStop { ExecStopPost = script "post-stop" config.postStop; })
      ];
    };
  socket.options = {
    listenStreams = texts;
    listenDatagrams = texts;
    socketConfig = section;
  };
in
{
  options.systemd = {
    services = units [ service ];
    sockets = units [ socket ];
    timers = units [ { options.timerConfig = section; } ];
    paths = units [ { options.pathConfig = section; } ];
    slices = units [ { options.sliceConfig = section; } ];
    targets = units [ ];
    user.services = units [ service ];
    mounts = option (types.listOf types.attrs) [ ];
    tmpfiles = {
      rules = texts;
      settings = option (types.attrsOf types.anything) { };
    };
    oomd.enable = option types.bool true;
    enableEmergencyMode = option types.bool true;
    sleep.extraConfig = option types.lines "";
    settings = option (types.attrsOf types.anything) { };
    network = option types.anything { };
  };
}
