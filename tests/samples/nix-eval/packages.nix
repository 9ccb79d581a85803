# A package set of inert stand-ins: enough for the module system and for package expressions,
# with nothing to build and nothing written to a store.
{
  lib,
  names ? [ ],
  system ? "x86_64-linux",
  overlays ? [ ],
  # Derivations that Nix itself accepts, though they build nothing either.
  derivations ? false,
}:
let
  plain = text: builtins.unsafeDiscardStringContext (toString text);
  # Thirty-two characters of those that a store path may have.
  fakeHash =
    text: lib.replaceStrings [ "e" ] [ "z" ] (builtins.substring 0 32 (builtins.hashString "sha256" text));
  # A string that Nix takes for a path of its store, as an output of a real package is.
  inStore = path: builtins.appendContext path { ${path}.path = true; };
  fake =
    key: name:
    let
      path = "/nix/store/${fakeHash (name + plain key)}-${lib.strings.sanitizeDerivationName name}";
    in
    {
      type = "derivation";
      inherit name system;
      outPath = inStore path;
      drvPath = inStore "${path}.drv";
      outputName = "out";
      outputs = [ "out" ];
    };
  real =
    key: name:
    derivation {
      inherit system key;
      name = lib.strings.sanitizeDerivationName name;
      builder = "/bin/sh";
    };

  # `key` tells apart two packages of one name, so that a changed content changes the path.
  standInOf =
    key: name: extra:
    let
      self = (if derivations then real else fake) key name // {
        pname = name;
        version = "99.0";
        passthru = { };
        override = _: self;
        overrideAttrs = _: self;
        __toString = it: it.outPath;
      }
      // lib.genAttrs [ "out" "dev" "man" "lib" "terminfo" "bin" "doc" ] (_: self)
      // extra
      // {
        meta = {
          mainProgram = name;
          platforms = lib.platforms.all;
        }
        // (extra.meta or { });
      }
      // (extra.passthru or { });
    in
    self;
  standIn = standInOf "";
  # What was given is kept as an attribute: a test can read `text`, `cmd` or `value` again.
  withText = name: text: standInOf text name { inherit text; };

  versioned =
    kind: args:
    let
      asked = if builtins.isFunction args then lib.fix args else args;
      name = asked.name or asked.pname;
    in
    standInOf (asked.version or "") name (
      {
        inherit kind;
      }
      // removeAttrs asked [
        "type"
        "outPath"
        "drvPath"
        "outputs"
      ]
    );

  format = extension: _: {
    type =
      let
        inherit (lib) types;
        value =
          types.nullOr (
            types.oneOf [
              types.bool
              types.int
              types.float
              types.str
              types.path
              (types.attrsOf value)
              (types.listOf value)
            ]
          )
          // {
            description = "${extension} value";
          };
      in
      value;
    generate = name: value: standInOf (builtins.toJSON value) name { inherit value; };
    lib.types.atom = lib.types.nullOr (
      lib.types.oneOf [
        lib.types.bool
        lib.types.int
        lib.types.float
        lib.types.str
      ]
    );
  };

  # Like the real one; an argument that the set lacks becomes a stand-in of that name.
  callPackageWith =
    scope: function: given:
    let
      called = if builtins.isFunction function then function else import function;
      wanted = builtins.functionArgs called;
      missing = lib.filterAttrs (name: optional: !optional && !(scope ? ${name})) wanted;
      found = builtins.intersectAttrs wanted scope;
      result = called (builtins.mapAttrs (name: _: standIn name { }) missing // found // given);
    in
    if builtins.isAttrs result then
      result
      // {
        override = changes: callPackageWith scope function (given // changes);
      }
    else
      result;

  special = self: {
    inherit lib system;
    pkgs = self;
    path = ./nixpkgs;
    config = { inherit derivations; };
    overlays = overlays;
    stdenv = {
      hostPlatform = lib.systems.elaborate system;
      buildPlatform = lib.systems.elaborate system;
      inherit (lib.systems.elaborate system) isLinux isDarwin;
      cc = standIn "cc" { };
      mkDerivation = versioned "derivation";
      shell = "/bin/sh";
    };
    inherit (self.stdenv) hostPlatform;
    stdenvNoCC = self.stdenv;
    formats = lib.genAttrs [
      "json"
      "toml"
      "yaml"
      "ini"
      "iniWithGlobalSection"
      "keyValue"
      "gitIni"
      "xml"
      "hocon"
      "javaProperties"
      "plist"
      "lua"
      "elixirConf"
      "libconfig"
      "systemd"
      "nixConf"
      "pythonVars"
      "php"
      "hcl1"
      "cdn"
      "yaml_1_1"
      "yaml_1_2"
    ] format;

    runtimeShell = "${self.bash}/bin/bash";
    writeText = withText;
    writeTextFile = { name, text, ... }: withText name text;
    writeTextDir = name: withText (baseNameOf name);
    writeScript = withText;
    writeScriptBin = withText;
    writeShellScript = withText;
    writeShellScriptBin = withText;
    writeShellApplication = args: standInOf args.text args.name args;
    writers = lib.genAttrs [
      "writeBash"
      "writeBashBin"
      "writeDash"
      "writePython3"
      "writePython3Bin"
    ] (_: name: text: withText (baseNameOf name) (if builtins.isString text then text else ""));
    concatText = name: files: standIn name { inherit files; };
    runCommand =
      name: environment: cmd:
      standInOf cmd name (environment // { inherit cmd environment; });
    runCommandLocal = self.runCommand;
    runCommandCC = self.runCommand;
    buildEnv = args: standIn args.name args;
    symlinkJoin = args: versioned "symlinkJoin" ({ name = "join"; } // args);
    linkFarm = name: entries: standIn name { inherit entries; };
    mkShell = args: versioned "shell" ({ name = "shell"; } // args);
    mkShellNoCC = self.mkShell;
    replaceVars = path: _: standInOf path (baseNameOf path) { };
    substituteAll = standIn "substituted";
    makeWrapper = standIn "makeWrapper" { };
    emptyFile = standIn "empty-file" { };
    emptyDirectory = standIn "empty-directory" { };
    fetchurl = args: standInOf (args.hash or args.sha256 or "") "source" args;
    fetchzip = self.fetchurl;
    fetchFromGitHub = self.fetchurl;
    fetchPypi = self.fetchurl;

    callPackage = callPackageWith self;
    callPackages = callPackageWith self;
    newScope = extra: callPackageWith (self // extra);
    python3 = import ./python.nix {
      inherit lib standIn versioned;
      pkgs = self;
    };
    python3Packages = self.python3.pkgs;

    nixosOptionsDoc = _: {
      optionsJSON = standIn "options" { };
      optionsCommonMark = standIn "options" { };
      optionsNix = { };
      optionsAsciiDoc = standIn "options" { };
    };
    testers = {
      runNixOSTest = module: versioned "nixos-test" { name = "vm-test"; inherit module; };
      nixosTest = self.testers.runNixOSTest;
    };
    pkgsBuildBuild = self;
    buildPackages = self;

    neovimUtils = {
      packDir = _: standIn "packdir" { };
      makeNeovimConfig =
        args:
        {
          inherit (args) plugins;
          neovimRcContent = "";
          wrapperArgs = [ ];
          luaRcContent = "";
          manifestRc = "";
          pluginAdvisedLua = "";
        }
        // args;
      makeVimPackageInfo = _: {
        pluginAdvisedLua = "";
        userPluginViml = [ ];
        runtimeDeps = [ ];
        vimPackage = {
          start = [ ];
          opt = [ ];
        };
      };
      normalizePlugins = plugins: plugins;
    };
    lua5_1 = standIn "lua" { };
    wrapNeovimUnstable =
      _: _:
      standIn "neovim-wrapped" {
        initRc = "";
        luaRcContent = "";
        neovimRcContent = "";
      };
    vimPlugins = lib.genAttrs [
      "nvim-treesitter"
      "telescope-nvim"
      "plenary-nvim"
      "gitsigns-nvim"
      "lualine-nvim"
      "tokyonight-nvim"
      "nvim-lspconfig"
      "vim-nix"
      "which-key-nvim"
    ] (name: standIn name { });
  };

  # Packages that our own files name and home-manager does not.
  further = [
    "bubblewrap"
    "file"
    "gettext"
    "gnumake"
    "hatch"
    "home-manager"
    "iproute2"
    "iptables"
    "lsof"
    "makeBinaryWrapper"
    "ncurses"
    "nix-eval-jobs"
    "nixfmt"
    "nixos-rebuild"
    "shellcheck"
    "strace"
    "sudo"
    "tree"
    "tzdata"
    "wget"
  ];
  base = self: lib.genAttrs (names ++ further) (name: standIn name { }) // special self;
  withExtend =
    rattrs:
    lib.fix (
      final:
      rattrs final
      // {
        extend = overlay: withExtend (lib.extends overlay rattrs);
        appendOverlays = more: withExtend (lib.extends (lib.composeManyExtensions more) rattrs);
      }
    );
in
withExtend (lib.extends (lib.composeManyExtensions overlays) base)
