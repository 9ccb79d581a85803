# programs.terminal: zsh, Atuin, Neovim or your own build of it, and small tools. Everything
# it sets is a default of home-manager's own options.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.programs.terminal;
  switch =
    description:
    mkOption {
      type = types.bool;
      default = true;
      inherit description;
    };
in
{
  options.programs.terminal = {
    enable = lib.mkEnableOption "a terminal to work in: zsh, Atuin, Neovim, tools";

    zsh.enable = switch ''
      Whether zsh is set up. To have it as login shell is the machine's business: on NixOS
      `programs.zsh.enable = true; users.users.alice.shell = pkgs.zsh;`, elsewhere `chsh`.
    '';

    atuin.enable = switch ''
      Whether Ctrl-R and the up arrow search with Atuin. Between machines it exchanges
      nothing by this alone: that is `programs.bootstrap.atuin`.
    '';

    neovim = {
      enable = switch "Whether Neovim is installed.";

      package = mkOption {
        type = types.nullOr types.package;
        default = null;
        example = lib.literalExpression ''
          inputs.nixvim.legacyPackages.''${system}.makeNixvim { colorschemes.gruvbox.enable = true; }
        '';
        description = ''
          A finished Neovim of your own, taken as it is, such as one that nixvim builds; it has
          to have {command}`nvim`. null: home-manager's `programs.neovim`, which takes plugins
          and settings.
        '';
      };

      defaultEditor = switch "Whether `$EDITOR` is Neovim.";
    };

    tools = mkOption {
      type = types.listOf types.package;
      default = with pkgs; [
        fd
        jq
        ripgrep
      ];
      defaultText = lib.literalExpression "with pkgs; [ fd jq ripgrep ]";
      description = ''
        Small tools without settings. Those that have some are switched on by home-manager's
        own options: bat, direnv, eza, fzf, htop, zoxide.
      '';
    };

    extraPackages = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = lib.literalExpression "[ inputs.devman.packages.\${system}.default ]";
      description = "Further packages, such as devman.";
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        home.packages = cfg.tools ++ cfg.extraPackages;
        programs = {
          # Without it the aliases, and Atuin, are in no shell that scripts and ssh start.
          bash.enable = mkDefault true;
          bat.enable = mkDefault true;
          direnv.enable = mkDefault true;
          direnv.nix-direnv.enable = mkDefault true;
          eza.enable = mkDefault true;
          fzf.enable = mkDefault true;
          htop.enable = mkDefault true;
          zoxide.enable = mkDefault true;
        };
      }

      (lib.mkIf cfg.zsh.enable {
        programs.zsh = {
          enable = mkDefault true;
          enableCompletion = mkDefault true;
          autosuggestion.enable = mkDefault true;
          syntaxHighlighting.enable = mkDefault true;
          autocd = mkDefault true;
        };
      })

      (lib.mkIf cfg.atuin.enable {
        programs.atuin = {
          enable = mkDefault true;
          enableZshIntegration = mkDefault true;
          enableBashIntegration = mkDefault true;
        };
      })

      # Both want Ctrl-R; it is Atuin's. In home-manager 26.05 and before, which has no such
      # option, Atuin takes it by coming later.
      (lib.optionalAttrs (options.programs.fzf ? historyWidget) {
        programs.fzf.historyWidget.command = lib.mkIf (cfg.enable && cfg.atuin.enable) (mkDefault "");
      })

      (lib.mkIf (cfg.neovim.enable && cfg.neovim.package == null) {
        programs.neovim = {
          enable = mkDefault true;
          defaultEditor = mkDefault cfg.neovim.defaultEditor;
          viAlias = mkDefault true;
          vimAlias = mkDefault true;
        };
      })

      (lib.mkIf (cfg.neovim.enable && cfg.neovim.package != null) {
        home.packages = [ cfg.neovim.package ];
        home.sessionVariables = lib.mkIf cfg.neovim.defaultEditor {
          EDITOR = mkDefault "nvim";
          VISUAL = mkDefault "nvim";
        };
        home.shellAliases = {
          vi = mkDefault "nvim";
          vim = mkDefault "nvim";
        };
        assertions = [
          {
            assertion = !config.programs.neovim.enable;
            message = "There are two Neovims: programs.terminal.neovim.package and programs.neovim. Write programs.neovim.enable = false; or leave programs.terminal.neovim.package out.";
          }
        ];
      })
    ]
  );
}
